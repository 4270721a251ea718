"""Every gradient estimator against exact gradients: the sound ones agree, the unsound do not.

On a linear-Gaussian model with one latent, E[bound] of K = 2 samples is an integral over two
noises, done by Gauss-Hermite quadrature and differentiated as it stands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quadrature
import traced_bounds
from conftest import MODELS, model_config, perturbed

from vaejax.models import latent_variable, linear_gaussian
from vaejax.objectives import bounds, gradients, importance, phi_weights, surrogates
from vaejax.objectives.surrogates import Target
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")


def test_sound_pairs_have_the_exact_gradient_and_unsound_pairs_have_not():
    quadrature.check(("pathwise", "stl", "doubly_reparameterized"))


@pytest.mark.slow
def test_estimators_without_a_path_are_sound_where_there_is_one_too():
    quadrature.check(("reinforce", "vimco", "ovis"))


@pytest.mark.parametrize(
    "name", ["iwae", *(pytest.param(n, marks=pytest.mark.slow) for n in ("renyi", "jackknife"))]
)
def test_beta_enters_the_doubly_reparameterized_weights(name):
    _, params = quadrature.model_and_params()
    target = Target(bounds.FUNCTIONS[name], 2, beta=0.4)
    exact = jax.jit(jax.grad(quadrature.expected_bound(bounds.FUNCTIONS[name], beta=0.4)))(params)
    for draws in quadrature.draws_of(
        params, [("pathwise", target), ("doubly_reparameterized", target)]
    ):
        quadrature.assert_unbiased(draws, exact)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["pathwise", "doubly_reparameterized"])
def test_theta_and_phi_may_follow_different_bounds(estimator):
    """PIWAE: theta's gradient is IWAE's on all samples, phi's is MIWAE's, on the same draws."""
    _, params = quadrature.model_and_params()
    miwae = functools.partial(bounds.miwae, num_groups=2)
    cases = [Target(bounds.iwae, 4, miwae), Target(bounds.iwae, 4), Target(miwae, 4)]
    piwae, iwae, alone = quadrature.draws_of(
        params, [(estimator, case) for case in cases], num_draws=50
    )
    for ours, theirs in (
        (piwae["generative"], iwae["generative"]),
        (piwae["inference"], alone["inference"]),
    ):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), ours, theirs)
    bias = lambda draws: draws["inference"]["encoders"][0]["params"]["Dense_0"]["bias"]
    assert not np.allclose(bias(piwae), bias(iwae))


def test_closed_form_kl_has_the_exact_gradient_and_free_bits_stop_that_of_the_kl():
    model, params = quadrature.model_and_params()
    exact = jax.jit(jax.grad(quadrature.expected_bound(bounds.elbo)))(params)
    free = Target(bounds.elbo, 2, free_bits=1e3)
    plain, freed = quadrature.draws_of(
        params, [("closed_form_kl", Target(bounds.elbo, 2)), ("closed_form_kl", free)]
    )
    quadrature.assert_unbiased(plain, exact)
    reconstruction = jax.jit(jax.grad(quadrature.expected_bound(bounds.elbo, beta=0.0)))(params)
    quadrature.assert_unbiased(freed, reconstruction)
    value = surrogates.closed_form_kl(
        params, jax.random.key(4), jnp.asarray(quadrature.X), model=model, target=free
    )
    np.testing.assert_allclose(value[0], value[1].log_likelihood.mean() - 1e3)


def test_wake_phi_and_its_double_reparameterisation_have_one_expectation():
    _, params = quadrature.model_and_params()

    def expected(inference):
        """E[sum_i w~_i log q(z_i|x)], with samples and weights held fixed."""

        def pair(noises):
            z = jax.lax.stop_gradient(
                jax.vmap(lambda noise: quadrature.latent(params, noise))(noises)
            )
            model, ours = quadrature.model_and_params()[0], params | {"inference": inference}
            normalized = jax.nn.softmax(quadrature.log_weights_at(params, noises))
            return normalized @ jax.vmap(model.posterior(ours, jnp.asarray(quadrature.X)).log_prob)(
                z
            )

        return quadrature.PAIR_WEIGHTS @ jax.vmap(pair)(quadrature.PAIRS)

    exact = {
        "inference": jax.jit(jax.grad(expected))(params["inference"]),
        "generative": jax.jit(jax.grad(quadrature.expected_bound(bounds.iwae)))(params)[
            "generative"
        ],
    }
    target = Target(bounds.iwae, 2)
    names = ("wake_phi", "doubly_reparameterized_wake_phi")
    for draws in quadrature.draws_of(params, [(name, target) for name in names]):
        quadrature.assert_unbiased(draws, exact)


def test_sleep_phi_has_the_exact_gradient():
    """E_p(x, z)[log q(z|x)] of a linear-Gaussian model, worked out by hand."""
    _, params = quadrature.model_and_params()
    p = linear_gaussian.of(params)

    def expected(inference):
        """z - (A x + c) is normal, with x = W z + b + s noise."""
        q = linear_gaussian.posterior_of({"inference": inference})
        mean = -(q.weights @ p.bias + q.bias)[0]
        slope = 1.0 - (q.weights @ p.weights)[0, 0]
        noise = jnp.exp(2 * p.log_scale) * jnp.sum(q.weights**2)
        log_scale = jnp.log(q.factor[0, 0])
        square = mean**2 + slope**2 + noise
        return -0.5 * square * jnp.exp(-2 * log_scale) - log_scale

    exact = {
        "inference": jax.grad(expected)(params["inference"]),
        "generative": jax.jit(jax.grad(quadrature.expected_bound(bounds.iwae)))(params)[
            "generative"
        ],
    }
    (draws,) = quadrature.draws_of(params, [("sleep_phi", Target(bounds.iwae, 2))])
    quadrature.assert_unbiased(draws, exact)


def test_doubly_reparameterized_weights_are_those_of_the_papers():
    log_weights = jnp.asarray(np.random.default_rng(6).normal(-9.0, 2.0, 70))
    normalized = jax.nn.softmax(log_weights)

    def path_weights(text):
        weights = phi_weights.doubly_reparameterized
        return weights(log_weights, bound=bounds.make(text), beta=1.0)[0]

    np.testing.assert_allclose(path_weights("iwae"), normalized**2, atol=1e-12)
    np.testing.assert_allclose(path_weights("elbo"), np.full(70, 1 / 70), rtol=1e-12)
    stl = phi_weights.stl(log_weights, bound=bounds.elbo, beta=1.0)
    np.testing.assert_allclose(path_weights("elbo"), stl[0], rtol=1e-12)
    powered = jax.nn.softmax(0.3 * log_weights)  # DReG(alpha), Tucker et al. (2019), eq. 12
    np.testing.assert_allclose(
        path_weights("renyi(alpha=0.7)"), 0.7 * powered + 0.3 * powered**2, atol=1e-12
    )


@functools.cache
def _two_layers():
    """A model whose q(z_2|z_1) and p(z_1|z_2) are networks, well off its posterior."""
    config = model_config(
        latent_dims=(2, 1), encoder="mlp(hidden_dims=(2,)), mlp(hidden_dims=(2,))"
    )
    model = latent_variable.build(config, DataSpec((3,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.5)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


@pytest.mark.slow
def test_two_stochastic_layers_agree_with_pathwise_over_paired_draws():
    """No bias within 4 errors in every coordinate, for every bound with two derivatives."""
    model, params = _two_layers()
    pair, x = ("pathwise", "doubly_reparameterized"), jnp.array([1.0, 0.0, 1.0])

    @jax.jit
    def draws(number):
        target = Target(traced_bounds.numbered(number), 4)
        return quadrature.draws_of(
            params, [(name, target) for name in pair], model=model, x=x, num_draws=10_000
        )

    for number, name in enumerate(traced_bounds.NAMES):
        if bounds.BOUNDS[name].derivatives > 1:
            pathwise, double = draws(number)
            difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), double, pathwise)
            quadrature.assert_unbiased(difference, jax.tree.map(lambda leaf: 0.0, difference), name)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_wake_phi_stands_still_where_q_is_the_posterior(beta):
    """E[sum_i w~_i d log q(z_i|x)] = 0 there, whatever beta does to theta."""
    _, params = quadrature.model_and_params()
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    params = params | {"inference": linear_gaussian.inference_params(exact)}
    target = Target(bounds.iwae, 8, beta=beta)
    names = ("wake_phi", "doubly_reparameterized_wake_phi")
    for draws in quadrature.draws_of(params, [(name, target) for name in names]):
        phi = {"inference": draws["inference"]}
        quadrature.assert_unbiased(phi, jax.tree.map(lambda leaf: 0.0, phi))


@pytest.mark.parametrize(
    "estimator", [n for n, record in gradients.GRADIENTS.items() if not record.needs_discrete]
)
def test_value_is_the_bound_and_the_log_densities_are_those_of_q(estimator):
    model, params = quadrature.model_and_params()
    bound = bounds.elbo if estimator == "closed_form_kl" else bounds.iwae
    part = gradients.parse(estimator)
    params = gradients.init(params, jax.random.key(0), gradient=part, model=model)
    value, terms = gradients.surrogate(part)(
        params, jax.random.key(9), jnp.asarray(quadrature.X), model=model, target=Target(bound, 5)
    )
    assert terms.log_prior.shape == (5,)
    record = gradients.GRADIENTS[estimator]
    if not (record.uses_closed_form_kl or record.needs_log_marginal):
        np.testing.assert_allclose(value, bound(importance.log_weights(terms)), rtol=1e-12)


@pytest.mark.parametrize("text", ["ciwae", "tvo"])
def test_pathwise_gradient_is_the_derivative_of_its_own_value(text):
    model, params = quadrature.model_and_params()
    target = Target(bounds.FUNCTIONS[text], 6, beta=0.5)

    def objective(params):
        return surrogates.pathwise(
            params, jax.random.key(9), jnp.asarray(quadrature.X), model=model, target=target
        )[0]

    direction = perturbed(jax.tree.map(jnp.zeros_like, params), jax.random.key(10), 1.0)
    move = jax.jit(lambda t: objective(jax.tree.map(lambda p, d: p + t * d, params, direction)))
    numerical = (move(1e-5) - move(-1e-5)) / 2e-5
    exact = jax.jit(lambda: jax.jvp(objective, (params,), (direction,))[1])()
    np.testing.assert_allclose(exact, numerical, rtol=1e-7)


@pytest.mark.parametrize("num_samples", [5, 70])
def test_diagonal_hessian_is_the_diagonal_of_the_hessian(num_samples):
    log_weights = jnp.asarray(np.random.default_rng(11).normal(size=num_samples))
    bound = bounds.make("renyi(alpha=-0.5)")
    whole = jax.jit(jax.hessian(bound))(log_weights)
    ours = jax.jit(lambda w: phi_weights.diagonal_hessian(bound, w))(log_weights)
    np.testing.assert_allclose(ours, jnp.diag(whole), atol=1e-12)


def test_closed_form_kl_refuses_a_model_without_one(spec):
    model = latent_variable.build(model_config(**MODELS["mlp-2"]), spec)
    with pytest.raises(ValueError, match="closed_form_kl"):
        surrogates.closed_form_kl(
            model.init(jax.random.key(0)),
            jax.random.key(1),
            jnp.zeros(spec.shape),
            model=model,
            target=Target(bounds.elbo, 1),
        )
