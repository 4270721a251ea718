"""Annealed chains of Gibbs sweeps, against sums over all states of discrete latents."""

import functools

import discrete_models as small
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import model_config

from vaejax.evidence import annealing, gibbs, paths
from vaejax.evidence import estimators as evidence
from vaejax.models import latent_variable, supports
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
NUM_CHAINS = 8000  # times three classes: below 32,769 rows, see test_fusion
NAMES = ["sbn-2", "categorical", *(pytest.param(n, marks=pytest.mark.slow) for n in ("top_down",))]


def _path(name, start):
    model, params = small.case(name)
    ends = paths.ends(params, small.X, model=model, start=start)
    return gibbs.Path(paths.draw(ends.base), ends.log_densities, model.support)


def _log_marginal(name):
    model, params = small.case(name)
    return jax.nn.logsumexp(small.log_terms(params, model)[0])


@functools.cache
def _chains(name, start="posterior", forward=gibbs.forward):
    path, temperatures = _path(name, start), annealing.spacing("linear", 4)
    run = lambda key: forward(key, path, temperatures, num_sweeps=1)
    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(2), NUM_CHAINS))


def _off(chains, name):
    """(mean w - p(x)) / standard error."""
    weights = np.exp(np.asarray(chains.log_weight) - float(_log_marginal(name)))
    return (weights.mean() - 1.0) / (weights.std() / np.sqrt(NUM_CHAINS))


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_unbiased_and_annealing_makes_them_more_alike(name, start):
    chains = _chains(name, start)
    assert abs(_off(chains, name)) < 4.5
    path = _path(name, start)

    def plain(key):
        log_base, log_target = path.log_densities(path.sample(key))
        return log_target - log_base

    single = jax.jit(jax.vmap(plain))(jax.random.split(jax.random.key(2), NUM_CHAINS))
    assert np.asarray(chains.log_weight).std() < 0.95 * np.asarray(single).std()
    assert ((chains.changed >= 0) & (chains.changed <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_at_the_posterior_leaves_it_as_it_is(name):
    model, params = small.case(name)
    states = small.states(params, model)
    log_joint = small.log_terms(params, model)[0]
    mass = jax.nn.softmax(log_joint)
    path = _path(name, "posterior")

    def moved(key):
        first, second = jax.random.split(key)
        z = states[jax.random.categorical(first, log_joint)]
        state = gibbs._State(z, *path.log_densities(z))
        return gibbs.sweep(second, state, path, jnp.asarray(1.0), num_sweeps=2)[0].z

    drawn = jax.jit(jax.vmap(moved))(jax.random.split(jax.random.key(4), NUM_CHAINS))
    found = (drawn[:, None] == states[None]).all(axis=2)
    assert found.sum(axis=1).min() == 1
    error = np.sqrt(mass * (1 - mass) / NUM_CHAINS)
    np.testing.assert_array_less(abs(found.mean(axis=0) - mass), 4.5 * error + 1e-12)


def _weighs_after_the_sweep(key, path, temperatures, *, num_sweeps):
    """Each term of log w taken behind the move instead of before it."""
    z = path.sample(key)
    state, log_weight = gibbs._State(z, *path.log_densities(z)), 0.0
    for index in range(1, len(temperatures)):
        own = jax.random.fold_in(key, index)
        at = temperatures[index]
        state, changed = gibbs.sweep(own, state, path, at, num_sweeps=num_sweeps)
        log_weight += (at - temperatures[index - 1]) * (state.log_target - state.log_base)
    return gibbs.Chain(log_weight, changed)


@pytest.mark.slow
def test_weights_taken_after_the_move_are_caught():
    assert abs(_off(_chains("sbn-2", "posterior", _weighs_after_the_sweep), "sbn-2")) > 6.0


def test_the_estimate_is_near_the_enumerated_value_and_says_how_near():
    model, params = small.case("sbn-2")
    module = evidence.ESTIMATORS["gibbs"]
    config = module.Config(num_temperatures=50, num_chains=64, num_sweeps=2)
    estimator = module.build(config, model=model)
    found = jax.jit(lambda p: estimator.estimate(p, jax.random.key(0), small.X, ()))(params)
    value = found["gibbs"]
    assert value.trusted
    assert abs(value.value - _log_marginal("sbn-2")) < 4.5 * np.sqrt(value.variance) + 1e-6
    assert np.sqrt(value.variance) < 0.05
    assert estimator.work == 64 * 50 * 2 * 4
    assert set(module.figures({"gibbs": jax.tree.map(lambda leaf: leaf[None], value)}, ())) == {
        "gibbs_moves"
    }


def test_what_it_cannot_do_names_the_nearest():
    real = latent_variable.build(model_config(latent_dims=(2,)), DataSpec((3,), None))
    discrete, _ = small.case("sbn-1")
    ask = lambda name, model: evidence.ESTIMATORS[name].problems(
        evidence.ESTIMATORS[name].Config(), model=model, num_latents=3, num_samples=10
    )
    assert "real vectors" in ask("gibbs", real)[0]
    assert "use annealed" in ask("gibbs", real)[0]
    assert "use gibbs" in ask("annealed", discrete)[0]
    assert ask("gibbs", discrete) == []


@pytest.mark.parametrize("support", [supports.BINARY, supports.one_of(3)])
def test_other_states_differ_in_one_choice(support):
    z = supports.state(support, 6, jnp.asarray(5))
    for group in range(supports.num_groups(support, 6)):
        others = np.asarray(supports.others(support, z, jnp.asarray(group)))
        assert len(others) == supports.num_others(support)
        assert len({tuple(other) for other in (*others, np.asarray(z))}) == len(others) + 1
        size = 1 if support == supports.BINARY else 3
        rest = np.delete(np.arange(6), np.arange(group * size, (group + 1) * size))
        assert (others[:, rest] == np.asarray(z)[rest]).all()
        np.testing.assert_array_equal(
            others, jax.vmap(lambda o: supports.nearest(support, o))(others)
        )
