"""SUMO against closed forms: its lengths, its expectation, and what it says of its spread."""

import functools

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.evidence.estimators import sumo
from vaejax.evidence.estimators.sumo import Config
from vaejax.objectives import bounds, importance

NUM_EXAMPLES = 50


@functools.cache
def _problem():
    model, params = evidence_models.linear()
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=NUM_EXAMPLES)
    exact = np.asarray(jax.jit(jax.vmap(lambda x: model.log_marginal(params, x)))(x))
    return model, params, x, exact


@pytest.mark.parametrize("config", [Config(), Config(steady=5, tail=0.5)])
def test_lengths_have_the_tail_that_is_divided_by(config):
    """And an average of `expected_samples` - 1: within 4.5 errors of 200,000 draws."""
    config = Config(200_000, config.steady, config.tail)
    lengths = np.asarray(jax.jit(lambda key: sumo.sample_lengths(key, config))(jax.random.key(0)))
    assert lengths.min() == 1
    for k in (2, 3, 5, 6, 20, 80, 81, 90):
        exact = float(sumo.survival(jnp.asarray(k), config))
        error = np.sqrt(exact * (1 - exact) / len(lengths))
        assert abs(np.mean(lengths >= k) - exact) < 4.5 * error + 1e-6, k
    error = lengths.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() + 1 - sumo.expected_samples(config)) < 4.5 * error


@pytest.mark.slow
def test_its_mean_is_log_p_where_a_bound_of_the_same_cost_is_visibly_below():
    """2,000 SUMOs of 50 examples each: their spread is so heavy that fewer say little."""
    model, params, x, exact = _problem()
    config = Config(2000)
    cost = round(sumo.expected_samples(config))

    @jax.jit
    @jax.vmap
    def both(key, x):
        values, lengths = sumo.draws(params, key, x, model=model, config=config)
        bound = lambda key: bounds.iwae(
            importance.sample_log_weights(params, key, x, model=model, num_samples=cost)
        )
        return values, lengths, jax.vmap(bound)(jax.random.split(key, 2000))

    keys = jax.random.split(jax.random.key(1), NUM_EXAMPLES)
    values, lengths, below = map(np.asarray, both(keys, x))
    error = np.sqrt(values.var(axis=1, ddof=1).sum() / 2000) / NUM_EXAMPLES
    assert abs(np.mean(values - exact[:, None])) < 4 * error
    assert np.mean(exact[:, None] - below) > 6 * error
    np.testing.assert_allclose(lengths.mean() + 1, sumo.expected_samples(config), rtol=0.02)


@pytest.mark.slow
def test_repeats_are_the_definition_on_their_own_samples():
    """The stream cut into repeats, by hand in float64."""
    model, params, x, _ = _problem()
    config, key = Config(num_repeats=20, steady=4, tail=0.6, chunk_size=7), jax.random.key(5)
    values, lengths = jax.jit(lambda: sumo.draws(params, key, x[0], model=model, config=config))()
    sample_key = jax.random.split(key)[1]
    numbers = jnp.arange(int(lengths.sum()) + 20)

    @jax.jit
    @jax.vmap
    def log_weights(n):
        terms = importance.log_terms(params, jax.random.fold_in(sample_key, n), x[0], model=model)
        return importance.log_weights(terms)

    stream = np.asarray(log_weights(numbers), np.float64)
    for value, length in zip(values, np.asarray(lengths), strict=True):
        own, stream = stream[: length + 1], stream[length + 1 :]
        iwae = np.logaddexp.accumulate(own) - np.log(np.arange(1, length + 2))
        tails = [0.6 ** max(k - 4, 0) / min(k, 4) for k in range(1, length + 1)]
        np.testing.assert_allclose(value, own[0] + np.sum(np.diff(iwae) / tails), rtol=2e-5)


@pytest.mark.slow
def test_a_heavy_tail_is_seen():
    """One repeat holds much of the spread, and most examples are flagged, where q is far too
    narrow; hardly any where it is not."""
    model, params, x, _ = _problem()
    narrow = jax.tree.map(jnp.copy, params)
    own = narrow["inference"]["posteriors"][0]
    own["log_diagonal"] = own["log_diagonal"] - 1.2
    run = lambda params: evidence_models.run(sumo.build(Config(400), model=model), params, x)[
        "sumo"
    ]
    light, heavy = run(params), run(narrow)
    assert np.mean(heavy.trusted) < np.mean(light.trusted)
    assert heavy.diagnostics.largest_share.mean() > 1.5 * light.diagnostics.largest_share.mean()
    assert heavy.diagnostics.pareto_k.mean() > light.diagnostics.pareto_k.mean()


@pytest.mark.parametrize(("tail", "reason"), [(1.0, "has no bound"), (0.0, "cuts every sum off")])
def test_a_tail_without_a_bound_is_refused(tail, reason):
    model, *_ = _problem()
    ask = functools.partial(sumo.problems, model=model, num_latents=2, num_samples=2)
    (problem,) = ask(Config(tail=tail))
    assert f"evidence.sumo.tail={tail:g} {reason}" in problem
    assert ask(Config()) == []
