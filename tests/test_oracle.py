"""The linear-Gaussian model, where log p(x), the posterior and all gradients are known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODELS, model_config, perturbed
from scipy import stats
from sklearn.decomposition import PCA

from vaejax.models import latent_variable, linear_gaussian
from vaejax.objectives import bounds, importance
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
DIM, LATENT = 5, 2


@functools.cache
def _model():
    spec = DataSpec((DIM,), np.linspace(0.2, 0.8, DIM))
    config = model_config(**MODELS["linear_gaussian-full"] | {"latent_dims": (LATENT,)})
    model = latent_variable.build(config, spec)
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    generative = perturbed(params["generative"], jax.random.key(1), 0.5)
    return model, {"generative": generative, "inference": params["inference"]}


def _exact(params):
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    return params | {"inference": linear_gaussian.inference_params(exact)}


def _perturbed_posterior(params, scale=0.07):
    exact = _exact(params)["inference"]
    return params | {"inference": perturbed(exact, jax.random.key(2), scale)}


def _x():
    return jnp.asarray(np.random.default_rng(3).normal(size=DIM))


def _log_weights(model, params, seed, num_samples):
    sample = functools.partial(importance.sample_log_weights, model=model, num_samples=num_samples)
    return jax.jit(sample)(params, jax.random.key(seed), _x())


def test_log_marginal_is_the_normal_density():
    model, params = _model()
    p = linear_gaussian.of(params)
    covariance = p.weights @ p.weights.T + jnp.exp(2 * p.log_scale) * jnp.eye(DIM)
    expected = stats.multivariate_normal(p.bias, covariance).logpdf(_x())
    np.testing.assert_allclose(model.log_marginal(params, _x()), expected, rtol=1e-12)


def test_every_weight_is_the_evidence_when_q_is_the_posterior():
    model, params = _model()
    params = _exact(params)
    log_weights = _log_weights(model, params, 4, 50)
    np.testing.assert_allclose(log_weights, model.log_marginal(params, _x()), atol=1e-10)


@pytest.mark.parametrize("name", bounds.BOUNDS)
def test_every_bound_is_the_evidence_when_q_is_the_posterior(name):
    model, params = _model()
    params = _exact(params)
    log_weights = _log_weights(model, params, 4, 50)
    bound = bounds.FUNCTIONS[name](log_weights)
    np.testing.assert_allclose(bound, model.log_marginal(params, _x()), atol=1e-10)


def _kl_to_posterior(params, x):
    """KL(q(z|x) || p(z|x)) of two normals, in closed form."""
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))

    def moments(q):
        return q.weights @ x + q.bias, q.factor @ q.factor.T

    ours = linear_gaussian.posterior_of(params)
    (loc, covariance), (true_loc, true_covariance) = moments(ours), moments(exact)
    precision = jnp.linalg.inv(true_covariance)
    difference = true_loc - loc
    log_dets = jnp.linalg.slogdet(true_covariance)[1] - jnp.linalg.slogdet(covariance)[1]
    trace = jnp.trace(precision @ covariance)
    return 0.5 * (trace + difference @ precision @ difference - LATENT + log_dets)


def test_elbo_plus_kl_is_the_evidence_when_q_is_perturbed():
    model, params = _model()
    params = _perturbed_posterior(params)
    log_weights = _log_weights(model, params, 5, 20_000)
    elbo, error = log_weights.mean(), log_weights.std() / np.sqrt(20_000)
    kl = _kl_to_posterior(params, _x())
    assert kl > 20 * error  # else the test could not tell q from the posterior
    assert abs(elbo + kl - model.log_marginal(params, _x())) < 4 * error


def test_bounds_rise_with_k_towards_the_evidence():
    model, params = _model()
    params = _perturbed_posterior(params)
    log_weights = _log_weights(model, params, 6, 100_000)
    values = [log_weights.mean()]
    for k in (5, 50, 500):
        values.append(jax.vmap(bounds.iwae)(log_weights.reshape(-1, k)).mean())
    assert all(low < high for low, high in itertools.pairwise(values))
    exact = model.log_marginal(params, _x())
    assert values[-1] < exact + 0.01
    assert exact - values[-1] < 0.1 * (exact - values[0])


def test_closed_form_kl_is_the_expected_log_ratio():
    model, params = _model()
    params = _perturbed_posterior(params)
    terms = importance.sample_log_terms(
        params, jax.random.key(7), _x(), model=model, num_samples=20_000
    )
    ratio = terms.log_posterior - terms.log_prior
    assert abs(ratio.mean() - jnp.sum(model.kl_groups(params, _x()))) < 4 * ratio.std() / np.sqrt(
        20_000
    )


def test_beta_zero_is_the_reconstruction_and_beta_scales_both_densities_of_z():
    model, params = _model()
    options = {"model": model, "num_samples": 4}
    terms = importance.sample_log_terms(params, jax.random.key(11), _x(), **options)
    at = lambda beta: importance.log_weights(terms, beta=beta)
    np.testing.assert_array_equal(at(0.0), terms.log_likelihood)
    np.testing.assert_allclose(
        at(0.5), terms.log_likelihood + 0.5 * (terms.log_prior - terms.log_posterior)
    )


def test_probabilistic_pca_maximum_scores_as_scikit_learn_says():
    """At the closed-form maximum (Tipping and Bishop 1999, eq. 8) log p agrees with PCA's."""
    data = np.random.default_rng(0).normal(size=(300, DIM)) @ np.diag([3, 2, 1, 0.5, 0.4])
    pca = PCA(LATENT, svd_solver="full").fit(data)
    scale = np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    model = linear_gaussian.LinearGaussian(
        jnp.asarray(pca.components_.T * scale),
        jnp.asarray(pca.mean_),
        jnp.asarray(0.5 * np.log(pca.noise_variance_)),
    )
    ours = jax.vmap(lambda x: linear_gaussian.log_marginal(model, x))(jnp.asarray(data))
    np.testing.assert_allclose(ours, pca.score_samples(data), rtol=1e-9)
