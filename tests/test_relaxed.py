"""Learned baselines and relaxed samples, against sums over all states of discrete latents."""

import functools

import discrete_models as small
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import model_config, small_config
from jax.flatten_util import ravel_pytree

from vaejax import config as config_lib
from vaejax.errors import UserError
from vaejax.models import latent_variable, relaxation, supports
from vaejax.models.discrete import OneHot
from vaejax.models.distributions import Bernoulli
from vaejax.objectives import baselines, bounds, gradients, importance, requirements
from vaejax.objectives.surrogates import Target
from vaejax.training import step as training
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
NVIL = gradients.parse("nvil(hidden_dims=(3,))")


def _phi(params):
    """Flat phi without what is learned beside it."""
    own = {name: leaf for name, leaf in params["inference"].items() if name != baselines.NAME}
    return ravel_pytree(own)[0]


def _drawn(params, model, estimator, target, num_draws=small.NUM_DRAWS):
    """Gradients of phi, [draws, J], and of theta."""
    function = gradients.surrogate(estimator)

    def gradient(key):
        value = lambda p: function(p, key, small.X, model=model, target=target)[0]
        found = jax.grad(value)(params)
        return _phi(found), ravel_pytree(found["generative"])[0]

    return jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(5), num_draws))


@functools.cache
def _with_baseline(name):
    model, params = small.case(name)
    params = gradients.init(params, jax.random.key(0), gradient=NVIL, model=model)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sbn-2", "categorical"])
@pytest.mark.parametrize("bound", ["elbo", "renyi"])
def test_nvil_has_the_enumerated_gradient_whatever_its_baseline_says(name, bound):
    model, params = _with_baseline(name)
    expected = small.expected_bound(bounds.FUNCTIONS[bound], model, beta=0.7)
    exact = small.flat(jax.jit(jax.grad(expected))(params))
    target = Target(bounds.FUNCTIONS[bound], 2, beta=0.7)
    phi, theta = _drawn(params, model, NVIL, target)
    own = _phi(jax.jit(jax.grad(expected))(params))
    assert np.abs(small.errors(phi, own)).max() < 4.5
    assert np.abs(small.errors(theta, exact["generative"])).max() < 4.5


@pytest.mark.slow
def test_a_baseline_that_has_seen_z_would_be_caught():
    model, params = _with_baseline("sbn-2")
    record = gradients.GRADIENTS["nvil"]
    target = Target(bounds.elbo, 1)

    def seen(params, key, x, *, model, target, hidden_dims):
        def weights(log_weights, *, bound, beta):
            return None, 0.3 * bound(log_weights) - beta * jax.grad(bound)(log_weights)

        return gradients.surrogates.weighted(
            params, key, x, model=model, target=target, weights=weights
        )

    exact = _phi(jax.jit(jax.grad(small.expected_bound(bounds.elbo, model)))(params))
    function = functools.partial(seen, hidden_dims=(3,))

    def gradient(key):
        value = lambda p: function(p, key, small.X, model=model, target=target)[0]
        return _phi(jax.grad(value)(params))

    drawn = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(5), small.NUM_DRAWS))
    assert record.learns_baseline
    assert np.abs(small.errors(drawn, exact)).max() > 6.0


@pytest.mark.slow
def test_the_baseline_moves_to_the_bound_and_takes_its_share_of_the_variance():
    model, params = _with_baseline("sbn-2")
    network = baselines.network(model, hidden_dims=(3,))
    target = Target(bounds.elbo, 1)
    mean = small.expected_bound(bounds.elbo, model)(params)
    function = gradients.surrogate(NVIL)

    @jax.jit
    def step(own, key):
        def loss(own):
            given = params | {"inference": params["inference"] | {baselines.NAME: own}}
            one = lambda key: function(given, key, small.X, model=model, target=target)[0]
            return -jnp.mean(jax.vmap(one)(jax.random.split(key, 200)))

        return jax.tree.map(lambda p, g: p - 0.3 * g, own, jax.grad(loss)(own))

    own = params["inference"][baselines.NAME]
    for number in range(60):
        own = step(own, jax.random.key(number))
    learned = params | {"inference": params["inference"] | {baselines.NAME: own}}
    found = baselines.value(network, learned, small.X)
    assert abs(found - mean) < 0.15 < abs(baselines.value(network, params, small.X) - mean)
    spread = lambda given: float(_drawn(given, model, NVIL, target, 4000)[0].var(axis=0).sum())
    assert spread(learned) < 0.7 * spread(params)


@pytest.mark.parametrize("temperature", [0.3, 1.5])
def test_relaxed_samples_have_the_concrete_distribution(temperature):
    """P(z~ < t) = sigmoid(T logit(t) - l) (Maddison et al. 2017), and the side of 1/2 is z's."""
    logits = jnp.array([-1.5, 0.2, 2.0])
    keys = jax.random.split(jax.random.key(0), small.NUM_DRAWS)
    draw = lambda family: jax.jit(
        jax.vmap(lambda key: relaxation.sample(family, key, temperature=temperature))
    )(keys)
    pairs = jnp.stack([logits, jnp.zeros(3)], axis=1)
    for drawn in (draw(Bernoulli(logits)), draw(OneHot(pairs)).reshape(-1, 3, 2)[..., 0]):
        for level in (0.05, 0.5, 0.8):
            share = jax.nn.sigmoid(temperature * jnp.log(level / (1 - level)) - logits)
            found = (drawn < level).mean(axis=0)
            error = np.sqrt(share * (1 - share) / len(keys))
            np.testing.assert_array_less(abs(found - share), 4.5 * error)
    np.testing.assert_allclose(draw(OneHot(pairs)).reshape(-1, 3, 2).sum(axis=2), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sbn-1", "sbn-2", "categorical", "autoregressive", "top_down"])
def test_the_bias_of_concrete_goes_with_its_temperature_and_theta_has_none(name):
    model, params = small.case(name)
    target = Target(bounds.iwae, 2)
    gradient = jax.jit(jax.grad(small.expected_bound(bounds.iwae, model)))(params)
    exact, of_theta = _phi(gradient), ravel_pytree(gradient["generative"])[0]
    off = {}
    for temperature in (2.0, 0.1):
        estimator = gradients.parse(f"concrete(temperature={temperature})")
        phi, theta = _drawn(params, model, estimator, target, 6000)
        if name != "top_down":
            assert np.abs(small.errors(theta, of_theta)).max() < 4.5
        off[temperature] = np.linalg.norm(phi.mean(axis=0) - exact) / np.linalg.norm(exact)
        if temperature == 2.0:
            assert np.abs(small.errors(phi, exact)).max() > 6.0
    assert off[0.1] < 0.35 * off[2.0]


def test_the_bound_logged_beside_concrete_is_the_discrete_one():
    model, params = small.case("sbn-2")
    function = gradients.surrogate(gradients.parse("concrete(temperature=2.0)"))
    value, terms = function(
        params, jax.random.key(1), small.X, model=model, target=Target(bounds.iwae, 4)
    )
    np.testing.assert_allclose(value, bounds.iwae(importance.log_weights(terms)), rtol=1e-12)
    _, log_q = small.log_terms(params, model)
    nearest = np.abs(np.asarray(terms.log_posterior)[:, None] - np.asarray(log_q)).min(axis=1)
    assert nearest.max() < 1e-10  # densities of states, never of what lies between them


def test_what_is_not_discrete_is_not_relaxed():
    real = latent_variable.build(model_config(latent_dims=(2,)), DataSpec((3,), None))
    (problem,) = requirements.problems(gradients.parse("concrete"), real)
    assert "these are real vectors already; use pathwise" in problem
    with pytest.raises(UserError, match="has no relaxation; use vimco"):
        relaxation.sample(
            real.prior(real.init(jax.random.key(0))), jax.random.key(0), temperature=1
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concrete(temperature=0)", "concrete: temperature: must be positive, got 0"),
        ("concrete(temperature=-1.0)", "concrete: temperature: must be positive, got -1"),
        ("concrete(temperatur=1.0)", "temperature"),
        ("concrete", "or set objective.allow_biased=true"),
        ("nvil(hidden_dims=(0,))", "nvil: hidden_dims: every width must be in 1..1048576, got 0"),
        ("vimco(temperature=1.0)", "'vimco' has no options"),
    ],
)
def test_options_that_cannot_be_are_named(text, message):
    discrete = {"model__posterior": "bernoulli", "model__prior": "bernoulli"}
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(".", r"\.")):
        small_config(**discrete, objective__gradient=text, objective__num_samples=2)


def test_a_baseline_is_kept_beside_phi_and_no_model_needs_it():
    config = config_lib.override(small_config(), "objective.gradient", "nvil")
    model = latent_variable.build(
        model_config(latent_dims=(2,), prior="bernoulli", posterior="bernoulli"),
        DataSpec((4, 1, 1), None),
    )
    params = model.init(jax.random.key(0))
    beside = gradients.init(
        params, jax.random.key(0), gradient=config.objective.gradient, model=model
    )
    assert set(beside["inference"]) - set(params["inference"]) == {baselines.NAME}
    x = jnp.ones((4, 1, 1))
    assert model.support == supports.BINARY
    jax.tree.map(
        np.testing.assert_array_equal,
        importance.log_terms(params, jax.random.key(1), x, model=model),
        importance.log_terms(beside, jax.random.key(1), x, model=model),
    )
    network = baselines.network(model, hidden_dims=(100,))
    with pytest.raises(ValueError, match="no baseline"):
        baselines.value(network, params, x)


def test_a_run_with_a_baseline_may_start_from_one_without_and_the_other_way_round():
    discrete = {"model__posterior": "bernoulli", "model__prior": "bernoulli"}
    learned = small_config(**discrete, objective__gradient="nvil")
    plain = small_config(**discrete, objective__gradient="vimco", objective__num_samples=2)
    model = latent_variable.build(learned.model, DataSpec((4, 1, 1), None))
    states = [training.init_state(config, model=model) for config in (learned, plain)]
    other = jax.tree.map(lambda leaf: leaf + 1.0, states[0].params)
    with_own, without = (training.started_from(state, other).params for state in states)
    assert set(without["inference"]) == {"encoders", "posteriors"}
    jax.tree.map(np.testing.assert_array_equal, with_own, other)
    plain_start = {
        group: {name: leaf for name, leaf in parts.items() if name != baselines.NAME}
        for group, parts in other.items()
    }
    jax.tree.map(np.testing.assert_array_equal, without, plain_start)
    kept = training.started_from(states[0], plain_start).params["inference"][baselines.NAME]
    jax.tree.map(np.testing.assert_array_equal, kept, states[0].params["inference"][baselines.NAME])
