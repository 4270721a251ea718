"""Expected gradients of every bound by quadrature, to hold gradient estimators against.

On a linear-Gaussian model with one latent, E[bound] of K = 2 samples is an integral over two
noises, done by Gauss-Hermite quadrature and differentiated as it stands. In double precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import traced_bounds
from conftest import MODELS, model_config, perturbed

from vaejax.models import latent_variable, linear_gaussian
from vaejax.objectives import bounds, gradients, importance
from vaejax.objectives.surrogates import Target
from vaejax.types import DataSpec

NUM_DRAWS = 20_000
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
PAIR_WEIGHTS = np.outer(NODE_WEIGHTS, NODE_WEIGHTS).ravel() / (2 * np.pi)
PAIRS = np.stack(np.meshgrid(NODES, NODES, indexing="ij"), axis=-1).reshape(-1, 2)
X = np.array([0.9, -0.4, 0.3])


@functools.cache
def model_and_params():
    """A model with one latent, and parameters whose q is well off the posterior."""
    config = model_config(**MODELS["linear_gaussian-full"] | {"latent_dims": (1,)})
    model = latent_variable.build(config, DataSpec((3,), None))
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    generative = perturbed(params["generative"], jax.random.key(1), 0.5)
    exact = linear_gaussian.exact_posterior(linear_gaussian.of({"generative": generative}))
    inference = perturbed(linear_gaussian.inference_params(exact), jax.random.key(2), 0.15)
    return model, {"generative": generative, "inference": inference}


def latent(params, noise):
    q = linear_gaussian.posterior_of(params)
    return q.weights @ X + q.bias + q.factor[0] * noise


def log_weights_at(params, noises, beta=1.0):
    """Log weights at given noises, [K]."""

    def log_weight(noise):
        terms = importance.log_terms_at(
            params, jnp.asarray(X), latent(params, noise), model=model_and_params()[0]
        )
        return importance.log_weights(terms, beta=beta)

    return jax.vmap(log_weight)(noises)


def expected_bound(bound, beta=1.0):
    """params -> E[bound(log w_1, log w_2)], by quadrature."""
    return lambda params: (
        PAIR_WEIGHTS @ jax.vmap(lambda pair: bound(log_weights_at(params, pair, beta)))(PAIRS)
    )


def draws_of(params, targets, seed=3, num_draws=NUM_DRAWS, model=None, x=None):
    """Gradients of each (estimator, target), [draws, ...] each, on common keys, one program."""
    model, x = model or model_and_params()[0], jnp.asarray(X if x is None else x)

    def gradient(key, estimator, target):
        surrogate = gradients.surrogate(gradients.parse(estimator))
        return jax.grad(lambda p: surrogate(p, key, x, model=model, target=target)[0])(params)

    def every(key):
        return [gradient(key, estimator, target) for estimator, target in targets]

    return jax.jit(jax.vmap(every))(jax.random.split(jax.random.key(seed), num_draws))


def standard_errors(draws, exact):
    """(mean - exact) / standard error, in every coordinate; 0 where there is nothing to err."""

    def scaled(draws, exact):
        draws = np.asarray(draws)
        error = draws.std(axis=0) / np.sqrt(len(draws))
        return np.ravel((draws.mean(axis=0) - exact) / np.maximum(error, 1e-12))

    return {
        group: np.concatenate(jax.tree.leaves(jax.tree.map(scaled, draws[group], exact[group])))
        for group in draws
    }


def assert_unbiased(draws, exact, case=None):
    for group, errors in standard_errors(draws, exact).items():
        assert np.abs(errors).max() < 4.0, (case, group, errors)


def of_all_bounds(estimators):
    """Of each bound its name, E[gradient], and draws of each estimator."""
    _, params = model_and_params()

    @jax.jit
    def of_two(number):
        bound = traced_bounds.numbered(number)
        exact = jax.grad(expected_bound(bound))(params)
        return exact, draws_of(params, [(each, Target(bound, 2)) for each in estimators])

    exact = {}
    for number, name in enumerate(traced_bounds.NAMES):
        exact[name], draws = of_two(number)
        if name != "miwae":  # of two samples it is the elbo
            yield name, exact[name], draws
    draws = draws_of(params, [(each, Target(bounds.miwae, 4)) for each in estimators])
    yield "miwae", exact["iwae"], draws  # groups of two: the expectation of L_2


def check(estimators):
    """Each estimator within 4 errors of quadrature, or outside of 6 where it is unsound."""
    for name, exact, draws in of_all_bounds(estimators):
        for estimator, own in zip(estimators, draws, strict=True):
            errors = standard_errors(own, exact)
            assert np.abs(errors["generative"]).max() < 4.0, (name, estimator)
            worst = np.abs(errors["inference"]).max()
            if gradients.bias(gradients.parse(estimator), bounds.parse(name)) is None:
                assert worst < 4.0, (name, estimator)
            else:
                assert worst > 6.0, (name, estimator)
