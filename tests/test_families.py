"""Gradient estimators, exact log p(x) and unit activity with every family of q and of p(z)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weighted_draws
from conftest import MODELS, model_config, perturbed

from vaejax.errors import UserError
from vaejax.evaluation import per_example
from vaejax.evidence import estimators as evidence
from vaejax.models import latent_variable, posteriors, priors
from vaejax.objectives import bounds, gradients, importance, requirements, surrogates
from vaejax.objectives.surrogates import Target
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
X = jnp.array([1.0, 0.0, 1.0])
NUM_DRAWS = 10_000
FAMILIES = {
    "normal": {"posterior": "normal"},
    "full_normal": {"posterior": "full_normal"},
    "mixture": {"posterior": "mixture(num_components=2)"},
    "coupling": {"posterior": "coupling(num_layers=2, hidden_dims=(3,), context_dims=1)"},
    "coupling-spline": {
        "posterior": "coupling(kind='spline', num_layers=2, hidden_dims=(3,), context_dims=1, "
        "num_bins=3)"
    },
    "iaf": {"posterior": "iaf(num_layers=2, hidden_dims=(3,), context_dims=1)"},
    "prior-mixture": {"prior": "mixture(num_components=2)"},
    "prior-vamp": {"prior": "vamp(num_components=3)"},
    "prior-vamp of flows": {
        "prior": "vamp(num_components=2)",
        "posterior": "coupling(num_layers=1, hidden_dims=(2,), context_dims=1)",
    },
    "prior-coupling": {"prior": "coupling(num_layers=2, hidden_dims=(3,))"},
    "prior-autoregressive": {"prior": "autoregressive(hidden_dims=(3,))"},
}


@functools.cache
def _case(name, layers=1):
    """A model of two latents, and a second layer of one, well off its posterior."""
    sizes = (2,) if layers == 1 else (2, 1)
    config = model_config(
        latent_dims=sizes,
        encoder=", ".join(["mlp(hidden_dims=(2,))"] * layers),
        **FAMILIES[name],
    )
    model = latent_variable.build(config, DataSpec((3,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.4)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


KEYS = jax.random.split(jax.random.key(3), NUM_DRAWS)


def _direct(name, estimators, *, layers=1, beta=1.0, keys=KEYS):
    """Gradients of iwae by each estimator itself on common keys, [draws, ...] each."""
    model, params = _case(name, layers)
    target = Target(bounds.iwae, 4, beta=beta)

    def gradient(key, estimator):
        surrogate = gradients.surrogate(gradients.parse(estimator))
        return jax.grad(lambda p: surrogate(p, key, X, model=model, target=target)[0])(params)

    every = lambda key: [gradient(key, each) for each in estimators]
    return jax.jit(jax.vmap(every))(keys)


def _assert_same_mean(left, right, case=""):
    """No difference beyond 4.5 errors of the paired draws, in every coordinate."""

    def check(left, right):
        difference = np.asarray(left) - np.asarray(right)
        error = difference.std(axis=0) / np.sqrt(len(difference))
        off = abs(difference.mean(axis=0))
        np.testing.assert_array_less(off, 4.5 * error + 1e-12, err_msg=str(case))

    jax.tree.map(check, left, right)


def test_every_family_is_tested():
    configs = [model_config(**fields, latent_dims=(2,)) for fields in FAMILIES.values()]
    discrete = {"bernoulli", "categorical", "autoregressive_bernoulli"}  # tests/test_discrete.py
    assert {config.posterior.name for config in configs} == set(posteriors.POSTERIORS) - discrete
    assert {config.prior.name for config in configs} == set(priors.PRIORS) - discrete


def _compared(name):
    """Whether an estimator is for real latents, follows the bound, and is two weights alone."""
    record = gradients.GRADIENTS[name]
    other = record.own_objective or record.uses_closed_form_kl
    return not (other or record.learns_baseline or record.needs_discrete or record.one_bound)


BESIDE_PATHWISE = [n for n in gradients.GRADIENTS if _compared(n) and n != "pathwise"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_sound_pairs_agree_with_pathwise_over_paired_draws(name):
    """For every family and bound, of phi's and theta's gradient, that of phi in a prior included;
    and the sums of `weighted_draws` are what `pathwise` itself gives."""
    model, params = _case(name)
    draws = weighted_draws.draw(params, KEYS, X, model=model, num_samples=4, beta=0.7)
    compared = 0
    for bound in bounds.BOUNDS:
        pathwise = weighted_draws.gradient(draws, "pathwise", bound)
        for other in BESIDE_PATHWISE:
            if gradients.bias(gradients.parse(other), bounds.parse(bound)) is None:
                found = weighted_draws.gradient(draws, other, bound)
                _assert_same_mean(found, pathwise, (bound, other))
                compared += 1
    assert compared > len(bounds.BOUNDS)
    (itself,) = _direct(name, ("pathwise",), beta=0.7, keys=KEYS[:20])
    sums = jax.tree.map(lambda leaf: leaf[:20], weighted_draws.gradient(draws, "pathwise", "iwae"))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    jax.tree.map(close, itself, sums)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_wake_phi_and_its_double_reparameterisation_agree(name):
    _assert_same_mean(*_direct(name, ("wake_phi", "doubly_reparameterized_wake_phi"), beta=0.7))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if "vamp" not in name])
def test_two_layers_agree_too(name):
    _assert_same_mean(*_direct(name, ("doubly_reparameterized", "pathwise"), layers=2))


@pytest.mark.slow
def test_what_a_prior_takes_of_the_encoder_follows_the_bound_in_sleep_too():
    """With phi's own objective put to sleep, phi's gradient is that of log p(z) alone."""
    model, params = _case("prior-vamp")
    target = Target(bounds.iwae, 3)

    def expected(params, key):
        frozen = jax.lax.stop_gradient(params)
        z = model.posterior(frozen, X).sample(key)
        terms = importance.log_terms_at(params, X, z, model=model)
        return terms._replace(log_posterior=jax.lax.stop_gradient(terms.log_posterior))

    def of_p(params):
        keys = jax.random.split(jax.random.split(jax.random.key(5))[0], 3)
        terms = jax.vmap(lambda key: expected(params, key))(keys)
        return bounds.iwae(importance.log_weights(terms))

    asleep = model._replace(posterior=lambda p, x: model.posterior(jax.lax.stop_gradient(p), x))
    sleep = lambda p: surrogates.sleep_phi(p, jax.random.key(5), X, model=asleep, target=target)[0]
    ours, exact = jax.jit(lambda p: (jax.grad(sleep)(p), jax.grad(of_p)(p)))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(exact["inference"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), ours, exact)


@pytest.mark.slow
def test_pathwise_of_a_vamp_prior_is_the_derivative_of_its_own_value():
    model, params = _case("prior-vamp")
    target = Target(bounds.iwae, 3)
    objective = jax.jit(
        lambda p: surrogates.pathwise(p, jax.random.key(9), X, model=model, target=target)[0]
    )
    direction = perturbed(jax.tree.map(jnp.zeros_like, params), jax.random.key(10), 1.0)
    move = lambda t: objective(jax.tree.map(lambda p, d: p + t * d, params, direction))
    exact = jax.jvp(objective, (params,), (direction,))[1]
    np.testing.assert_allclose(exact, (move(1e-5) - move(-1e-5)) / 2e-5, rtol=1e-7)


def test_vamp_is_refused_where_no_encoder_sees_the_data_alone():
    config = model_config(
        latent_dims=(3, 2), prior="vamp", encoder="mlp(hidden_dims=(3,)), mlp(hidden_dims=(3,))"
    )
    (problem,) = latent_variable.problems(config)
    assert "prior: it is made of q(z|u) at pseudo-inputs u" in problem
    assert "prior=mixture" in problem


def test_vamp_is_refused_where_q_has_no_density_in_one_pass():
    config = model_config(latent_dims=(3,), prior="vamp", posterior="iaf")
    (problem,) = latent_variable.problems(config)
    assert "model.posterior=iaf" in problem
    assert "use model.posterior=coupling" in problem


def test_options_of_a_prior_are_checked_with_the_config():
    config = model_config(prior="mixture(num_components=0)")
    (problem,) = latent_variable.problems(config)
    assert problem.startswith("model.prior: mixture: num_components")


def test_a_slow_density_is_refused_with_the_nearest_choice(spec):
    config = model_config(latent_dims=(784,), posterior="iaf(hidden_dims=(8,))", encoder="linear")
    model = latent_variable.build(config, spec)
    assert model.density_steps == 1568
    assert requirements.problems(gradients.parse("pathwise"), model) == []
    for estimator in ("stl", "doubly_reparameterized", "wake_phi", "sleep_phi"):
        (problem,) = requirements.problems(gradients.parse(estimator), model)
        assert "1,568 network passes" in problem
        assert "model.posterior=coupling" in problem
    assert requirements.problems(
        gradients.parse("pathwise"), model, inference_bound=bounds.parse("cubo")
    )
    for name in ("annealed", "smc", "bidirectional"):
        module = evidence.ESTIMATORS[name]
        ask = functools.partial(module.problems, model=model, num_latents=784, num_samples=9)
        assert "start=prior" in ask(module.Config())[0]
        assert ask(module.Config(start="prior")) == []


@pytest.mark.slow
def test_closed_form_kl_says_which_models_have_one():
    model, _ = _case("prior-vamp")
    (problem,) = requirements.problems(gradients.parse("closed_form_kl"), model)
    assert "normal prior" in problem
    assert requirements.problems(gradients.parse("closed_form_kl"), _case("normal")[0]) == []


@pytest.mark.slow
def test_prepared_parameters_give_the_same_densities():
    model, params = _case("prior-vamp")
    prepared = model.prepare(params)
    z = jnp.array([0.3, -0.8])
    np.testing.assert_allclose(
        model.prior(prepared).log_prob(z), model.prior(params).log_prob(z), rtol=1e-12
    )
    text = str(jax.make_jaxpr(lambda p: model.prior(p).log_prob(z))(prepared))
    assert "tanh" not in text  # no encoder is left
    plain, own = _case("normal")
    assert plain.prepare(own) is own


@pytest.mark.slow
def test_activity_of_a_posterior_without_a_mean_is_that_of_its_samples_without_their_noise():
    """Against a normal q: the same numbers from samples and from exact means."""
    model, params = _case("normal")
    without = model._replace(posterior=lambda p, x: _NoMean(model.posterior(p, x)))
    x = jax.random.bernoulli(jax.random.key(0), 0.5, (4000, 3)).astype(float)
    keys = jax.random.split(jax.random.key(1), 4000)

    def activity(model):
        one = lambda key, x: per_example.evaluate(
            params, key, x, model=model, num_samples=1, chunk_size=1
        )
        return per_example.unit_activity(jax.jit(jax.vmap(one))(keys, x))[0]

    exact, sampled = activity(model), activity(without)
    assert (exact > 0.01).all()
    np.testing.assert_allclose(sampled, exact, rtol=0.1)


class _NoMean:
    def __init__(self, distribution):
        self.sample, self.log_prob = distribution.sample, distribution.log_prob


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal", "mixture(num_components=3)", "vamp(num_components=5)"])
def test_log_marginal_with_a_mixture_of_normals_for_prior_is_exact(prior):
    """Against importance sampling, within its error, and against numpy's normal density."""
    fields = MODELS["linear_gaussian-full"] | {"posterior": "normal", "prior": prior}
    model = latent_variable.build(model_config(**fields), DataSpec((4,), np.full(4, 0.4)))
    params = perturbed(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1), 0.5)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    x = jnp.array([0.5, -0.3, 0.9, 0.1])
    keys = jax.random.split(jax.random.key(2), 400_000)
    z = jax.jit(jax.vmap(model.prior(params).sample))(keys)
    weights = jnp.exp(jax.jit(jax.vmap(lambda z: model.likelihood(params, z).log_prob(x)))(z))
    exact = jnp.exp(model.log_marginal(params, x))
    error = weights.std() / np.sqrt(len(keys))
    assert error < 0.02 * exact
    assert abs(weights.mean() - exact) < 4 * error


@pytest.mark.parametrize("prior", ["coupling", "autoregressive"])
def test_log_marginal_is_not_claimed_for_other_priors(prior):
    fields = MODELS["linear_gaussian-full"] | {"prior": prior}
    assert latent_variable.build(model_config(**fields), DataSpec((4,), None)).log_marginal is None


def test_a_config_that_a_model_cannot_serve_names_its_key(spec):
    with pytest.raises(UserError, match="the data leave"):
        latent_variable.build(
            model_config(latent_dims=(2,), encoder="linear", prior="vamp"),
            spec._replace(mean=np.full(spec.shape, 3.0)),
        )


@pytest.mark.slow
def test_full_normal_posterior_trained_on_a_linear_gaussian_model_closes_its_gap():
    """log p(x) - ELBO falls below 10^-3 nats, in the mean over examples, from more than 1."""
    model = latent_variable.build(
        model_config(**MODELS["linear_gaussian-full"]), DataSpec((4,), None)
    )
    params = perturbed(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1), 0.5)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    theta, x = params["generative"], jax.random.normal(jax.random.key(2), (64, 4))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))

    def log_weights(phi, key, num_samples):
        one = lambda key, x: importance.sample_log_weights(
            {"generative": theta, "inference": phi}, key, x, model=model, num_samples=num_samples
        )
        return jax.vmap(one)(jax.random.split(key, 64), x)

    def step(carry, key):
        phi, state = carry
        gradient = jax.grad(lambda phi: -jnp.mean(log_weights(phi, key, 2)))(phi)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(phi, updates), state), None

    @jax.jit
    def train(phi, key):
        return jax.lax.scan(step, (phi, optimizer.init(phi)), jax.random.split(key, 1500))[0][0]

    def gap(phi):
        exact = jax.vmap(lambda x: model.log_marginal(params, x))(x)
        return jnp.mean(exact) - jnp.mean(log_weights(phi, jax.random.key(4), 500))

    start = params["inference"]
    assert gap(start) > 1.0
    assert 0.0 <= gap(train(start, jax.random.key(3))) < 1e-3
