"""Factor analysis with one noise scale: the VAE whose every quantity is known exactly.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), so log p(x) = log N(x; b, W W' + s^2 I) and the
posterior is normal with a mean linear in x (Tipping and Bishop 1999, eq. 4 to 7). The
encoder q(z|x) = N(A x + c, L L') contains that posterior, and is trained like any other.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vaejax import numerics
from vaejax.types import DataSpec, Model


@dataclasses.dataclass(frozen=True)
class Config:
    """Attributes:

    name: "linear_gaussian".
    latent_dim: number of latent units.
    posterior: covariance of q: "full" contains the exact posterior, "diagonal" does not.
    output_bias: start b at the training "mean", or at "zero".
    """

    name: Literal["linear_gaussian"] = "linear_gaussian"
    latent_dim: int = 16
    posterior: Literal["full", "diagonal"] = "full"
    output_bias: Literal["mean", "zero"] = "mean"


def problems(config: Config) -> list[str]:
    """What is wrong between fields, one "path: sentence" each."""
    if config.latent_dim < 1:
        return [f"model.latent_dim: must be at least 1, got {config.latent_dim}"]
    return []


def _capacitance(generative: PyTree) -> Float[Array, "Z Z"]:
    """Cholesky factor of s^2 I + W' W."""
    weights, variance = generative["weights"], jnp.exp(2.0 * generative["log_scale"])
    return jnp.linalg.cholesky(variance * jnp.eye(weights.shape[1]) + weights.T @ weights)


def log_marginal(generative: PyTree, x: Float[Array, "D"]) -> Float[Array, ""]:
    """log N(x; b, W W' + s^2 I) in nats, by the matrix inversion lemma in Z dimensions."""
    size, latent_dim = generative["weights"].shape
    log_scale = generative["log_scale"]
    residual = x - generative["bias"]
    factor = _capacitance(generative)
    projected = jax.scipy.linalg.solve_triangular(
        factor, generative["weights"].T @ residual, lower=True
    )
    quadratic = (jnp.sum(residual**2) - jnp.sum(projected**2)) * jnp.exp(-2.0 * log_scale)
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diag(factor))) + 2.0 * (size - latent_dim) * log_scale
    return -0.5 * (quadratic + log_det + size * numerics.LOG_TWO_PI)


def exact_posterior(generative: PyTree) -> PyTree:
    """The `inference` parameters with which q(z|x) = p(z|x) for every x.

    Mean M^-1 W'(x - b), covariance s^2 M^-1, M = s^2 I + W'W (Tipping and Bishop 1999, eq. 7).
    """
    factor = _capacitance(generative)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(factor.shape[0]))
    inverse = 0.5 * (inverse + inverse.T)
    weights = inverse @ generative["weights"].T
    cholesky = jnp.linalg.cholesky(inverse) * jnp.exp(generative["log_scale"])
    return {
        "weights": weights,
        "bias": -weights @ generative["bias"],
        "log_diagonal": jnp.log(jnp.diag(cholesky)),
        "lower": jnp.tril(cholesky, -1),
    }


def build(config: Config, spec: DataSpec) -> Model:
    """The model of `config` for data of `spec`; z is one array [Z]."""
    size, dim = spec.size, config.latent_dim

    def init(key):
        key_generative, key_inference = jax.random.split(key)
        bias = jnp.zeros(size)
        if config.output_bias == "mean" and spec.mean is not None:
            bias = jnp.asarray(spec.mean, bias.dtype)
        weights = jax.random.normal(key_generative, (size, dim)) / jnp.sqrt(size)
        generative = {"weights": weights, "bias": bias, "log_scale": jnp.asarray(-1.0)}
        inference = {
            "weights": jax.random.normal(key_inference, (dim, size)) / jnp.sqrt(size),
            "bias": jnp.zeros(dim),
            "log_diagonal": jnp.zeros(dim),
        }
        if config.posterior == "full":
            inference["lower"] = jnp.zeros((dim, dim))
        return {"generative": generative, "inference": inference}

    def posterior(params, x):
        inference = params["inference"]
        cholesky = jnp.diag(jnp.exp(inference["log_diagonal"]))
        if "lower" in inference:
            cholesky += jnp.tril(inference["lower"], -1)
        return inference["weights"] @ x + inference["bias"], cholesky

    def sample_posterior(params, key, x):
        loc, cholesky = posterior(params, x)
        return loc + cholesky @ jax.random.normal(key, (dim,), loc.dtype)

    def log_posterior(params, x, z):
        loc, cholesky = posterior(params, x)
        noise = jax.scipy.linalg.solve_triangular(cholesky, z - loc, lower=True)
        log_diagonal = params["inference"]["log_diagonal"]
        return jnp.sum(numerics.normal_log_prob(noise, 0.0, jnp.zeros(()))) - jnp.sum(log_diagonal)

    def kl_groups(params, x):
        loc, cholesky = posterior(params, x)
        log_diagonal = params["inference"]["log_diagonal"]
        kl = 0.5 * (jnp.sum(cholesky**2, axis=1) + loc**2 - 1.0) - log_diagonal
        return kl if config.posterior == "diagonal" else jnp.sum(kl, keepdims=True)

    def mean(params, z):
        return params["generative"]["weights"] @ z + params["generative"]["bias"]

    def log_likelihood(params, x, z):
        log_scale = params["generative"]["log_scale"]
        return jnp.sum(numerics.normal_log_prob(x, mean(params, z), log_scale))

    def sample_likelihood(params, key, z):
        scale = jnp.exp(params["generative"]["log_scale"])
        return mean(params, z) + scale * jax.random.normal(key, (size,))

    return Model(
        init=init,
        sample_prior=lambda params, key: jax.random.normal(key, (dim,)),
        log_prior=lambda params, z: jnp.sum(numerics.normal_log_prob(z, 0.0, jnp.zeros(()))),
        sample_posterior=sample_posterior,
        log_posterior=log_posterior,
        log_likelihood=log_likelihood,
        likelihood_mean=mean,
        sample_likelihood=sample_likelihood,
        posterior_mean=lambda params, key, x: posterior(params, x)[0],
        kl_groups=kl_groups,
        log_marginal=lambda params, x: log_marginal(params["generative"], x),
    )
