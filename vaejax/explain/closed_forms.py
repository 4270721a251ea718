"""Closed forms of the linear-Gaussian model: its maximum, and every term of the identity.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), q(z|x) = N(A x + c, L L'). Each of log p(x), the
ELBO and KL(q || p(z|x)) is computed by a formula of its own that uses neither of the others.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vaejax import numerics
from vaejax.types import Params


def maximum_likelihood(x: Float[np.ndarray, "N D"], latent_dim: int) -> tuple[PyTree, float]:
    """The generative parameters with the highest average log p(x), and that average in nats.

    Probabilistic PCA (Tipping and Bishop 1999, eq. 7 to 9): with the eigenvalues l_i of the
    1/N covariance, s^2 is the mean of those left out, W = U (diag(l) - s^2 I)^(1/2), and
    mean log p(x) = -(D log 2 pi + sum_kept log l_i + (D - Z) log s^2 + D) / 2. W times any
    rotation is as good.
    """
    size = x.shape[1]
    covariance = np.cov(x, rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    kept, variance = values[::-1][:latent_dim], values[: size - latent_dim].mean()
    weights = vectors[:, ::-1][:, :latent_dim] * np.sqrt(np.maximum(kept - variance, 0.0))
    log_det = np.log(kept).sum() + (size - latent_dim) * math.log(variance)
    value = -0.5 * (size * numerics.LOG_TWO_PI + log_det + size)
    generative = {
        "weights": weights,
        "bias": x.mean(axis=0),
        "log_scale": np.asarray(0.5 * math.log(variance)),
    }
    return generative, float(value)


def rotated(generative: PyTree, seed: int) -> PyTree:
    """W times a random rotation: the same p(x), but latents that are correlated given x."""
    size = generative["weights"].shape[1]
    normal = np.random.default_rng(seed).normal(size=(size, size))
    return generative | {"weights": generative["weights"] @ np.linalg.qr(normal)[0]}


def log_marginal(generative: PyTree, x: Float[Array, "D"]) -> Float[Array, ""]:
    """log N(x; b, W W' + s^2 I) through the D x D covariance, in nats."""
    weights, size = generative["weights"], x.shape[0]
    variance = jnp.exp(2.0 * generative["log_scale"])
    covariance = weights @ weights.T + variance * jnp.eye(size)
    return jax.scipy.stats.multivariate_normal.logpdf(x, generative["bias"], covariance)


def _posterior(inference: PyTree, x: Float[Array, "D"]):
    factor = jnp.diag(jnp.exp(inference["log_diagonal"]))
    if "lower" in inference:
        factor += jnp.tril(inference["lower"], -1)
    return inference["weights"] @ x + inference["bias"], factor @ factor.T


def elbo(params: Params, x: Float[Array, "D"]) -> Float[Array, ""]:
    """E_q[log p(x|z)] - KL(q || p(z)), both in closed form, in nats.

    E_q[log p(x|z)] = log N(x; W m + b, s^2 I) - tr(W S W') / (2 s^2) for q = N(m, S).
    """
    generative = params["generative"]
    weights, log_scale = generative["weights"], generative["log_scale"]
    loc, covariance = _posterior(params["inference"], x)
    at_mean = numerics.normal_log_prob(x, weights @ loc + generative["bias"], log_scale)
    spread = 0.5 * jnp.exp(-2.0 * log_scale) * jnp.trace(weights @ covariance @ weights.T)
    log_det = 2.0 * jnp.sum(params["inference"]["log_diagonal"])
    to_prior = 0.5 * (jnp.trace(covariance) + loc @ loc - loc.shape[0] - log_det)
    return jnp.sum(at_mean) - spread - to_prior


def kl(params: Params, x: Float[Array, "D"]) -> Float[Array, ""]:
    """KL(q(z|x) || p(z|x)) of two normals, in nats.

    p(z|x) has precision P = I + W'W/s^2 and mean P^-1 W'(x - b)/s^2 (Bishop 2006, eq. 2.116);
    KL = (tr(P S) + (m - mu)' P (m - mu) - Z - log det(P S)) / 2.
    """
    weights, bias = params["generative"]["weights"], params["generative"]["bias"]
    inverse_variance = jnp.exp(-2.0 * params["generative"]["log_scale"])
    loc, covariance = _posterior(params["inference"], x)
    precision = jnp.eye(loc.shape[0]) + inverse_variance * weights.T @ weights
    away = loc - jnp.linalg.solve(precision, inverse_variance * weights.T @ (x - bias))
    log_det = jnp.linalg.slogdet(precision)[1] + 2.0 * jnp.sum(params["inference"]["log_diagonal"])
    trace = jnp.trace(precision @ covariance)
    return 0.5 * (trace + away @ precision @ away - loc.shape[0] - log_det)


def best_diagonal_kl(generative: PyTree) -> float:
    """The least KL(q || p(z|x)) over diagonal normals: (sum_i log P_ii - log det P) / 2, in nats.

    Reached with the posterior's mean and variances 1 / P_ii (Bishop 2006, eq. 10.12), P its
    precision; the same for every x.
    """
    weights = np.asarray(generative["weights"])
    scaled = weights.T @ weights * math.exp(-2.0 * generative["log_scale"])
    precision = np.eye(weights.shape[1]) + scaled
    return float(0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]))
