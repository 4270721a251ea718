"""Closed forms of the linear-Gaussian model: its maximum, and every term of the identity.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), q(z|x) = N(A x + c, L L'). Each of log p(x), the
ELBO and KL(q || p(z|x)) is computed by a formula of its own that uses neither of the others.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vaejax import numerics
from vaejax.models.linear_gaussian import LinearGaussian, LinearPosterior


def maximum_likelihood(
    x: Float[np.ndarray, "N ..."], latent_dim: int
) -> tuple[LinearGaussian, float]:
    """The model with the highest average log p(x), and that average in nats.

    Probabilistic PCA (Tipping and Bishop 1999, eq. 7 to 9): with the eigenvalues l_i of the
    1/N covariance, s^2 is the mean of those left out, W = U (diag(l) - s^2 I)^(1/2), and
    mean log p(x) = -(D log 2 pi + sum_kept log l_i + (D - Z) log s^2 + D) / 2. W times any
    rotation is as good.
    """
    x = x.reshape(len(x), -1)
    size = x.shape[1]
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
    kept, variance = values[::-1][:latent_dim], values[: size - latent_dim].mean()
    weights = vectors[:, ::-1][:, :latent_dim] * np.sqrt(np.maximum(kept - variance, 0.0))
    log_det = np.log(kept).sum() + (size - latent_dim) * math.log(variance)
    value = -0.5 * (size * numerics.LOG_TWO_PI + log_det + size)
    model = LinearGaussian(weights, x.mean(axis=0), np.asarray(0.5 * math.log(variance)))
    return model, float(value)


def rotated(model: LinearGaussian, seed: int) -> LinearGaussian:
    """W times a random rotation: the same p(x), but latents that are correlated given x."""
    size = model.weights.shape[1]
    normal = np.random.default_rng(seed).normal(size=(size, size))
    return model._replace(weights=model.weights @ np.linalg.qr(normal)[0])


def log_marginal(model: LinearGaussian, x: Float[Array, "..."]) -> Float[Array, ""]:
    """log N(x; b, W W' + s^2 I) through the D x D covariance, in nats."""
    covariance = model.weights @ model.weights.T
    covariance += jnp.exp(2.0 * model.log_scale) * jnp.eye(x.size)
    return jax.scipy.stats.multivariate_normal.logpdf(x.reshape(-1), model.bias, covariance)


def elbo(model: LinearGaussian, q: LinearPosterior, x: Float[Array, "..."]) -> Float[Array, ""]:
    """E_q[log p(x|z)] - KL(q || p(z)), both in closed form, in nats.

    E_q[log p(x|z)] = log N(x; W m + b, s^2 I) - tr(W S W') / (2 s^2) for q = N(m, S).
    """
    x = x.reshape(-1)
    loc, covariance = q.weights @ x + q.bias, q.factor @ q.factor.T
    scale = jnp.exp(model.log_scale)
    at_mean = jnp.sum(dist.Normal(model.weights @ loc + model.bias, scale).log_prob(x))
    spread = 0.5 * jnp.trace(model.weights @ covariance @ model.weights.T) / scale**2
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diag(q.factor)))
    to_prior = 0.5 * (jnp.trace(covariance) + loc @ loc - loc.shape[0] - log_det)
    return at_mean - spread - to_prior


def kl(model: LinearGaussian, q: LinearPosterior, x: Float[Array, "..."]) -> Float[Array, ""]:
    """KL(q(z|x) || p(z|x)) of two normals, in nats.

    p(z|x) has precision P = I + W'W/s^2 and mean P^-1 W'(x - b)/s^2 (Bishop 2006, eq. 2.116);
    KL = (tr(P S) + (m - mu)' P (m - mu) - Z - log det(P S)) / 2.
    """
    x = x.reshape(-1)
    scaled = jnp.exp(-2.0 * model.log_scale) * model.weights.T
    precision = jnp.eye(q.bias.shape[0]) + scaled @ model.weights
    away = q.weights @ x + q.bias - jnp.linalg.solve(precision, scaled @ (x - model.bias))
    log_det = jnp.linalg.slogdet(precision)[1] + 2.0 * jnp.sum(jnp.log(jnp.diag(q.factor)))
    trace = jnp.trace(precision @ q.factor @ q.factor.T)
    return 0.5 * (trace + away @ precision @ away - away.shape[0] - log_det)


def best_diagonal_kl(model: LinearGaussian) -> float:
    """The least KL(q || p(z|x)) over diagonal normals: (sum_i log P_ii - log det P) / 2, in nats.

    Reached with the posterior's mean and variances 1 / P_ii (Bishop 2006, eq. 10.12), P its
    precision; the same for every x.
    """
    weights = np.asarray(model.weights)
    scaled = weights.T @ weights * math.exp(-2.0 * model.log_scale)
    precision = np.eye(weights.shape[1]) + scaled
    return float(0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]))
