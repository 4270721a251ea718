"""Importance sampling from q(z|x): L_K, its jackknife correction, ESS and Pareto k-hat."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vaejax import bounds, diagnostics, importance, pareto
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model, Params

LABELS = {"importance": "lower bound", "jackknife": "estimate, not a bound"}
ESS_NEEDED = 100.0  # below, the delta-method error of log p(x) is known to be too small


@dataclasses.dataclass(frozen=True)
class Config:
    """Budget."""

    num_samples: int = field(5000, "samples K per example", low=2)
    chunk_size: int = field(1000, "of them in memory at once", low=1)


class Diagnostics(NamedTuple):
    """Attributes:

    ess: effective sample size of the K weights.
    pareto_k: k-hat of their tail.
    pareto_k_bad: whether it is above the threshold for K samples.
    """

    ess: Float[Array, "*N"]
    pareto_k: Float[Array, "*N"]
    pareto_k_bad: Bool[Array, "*N"]


def problems(config: Config, *, model: Model, num_latents: int) -> list[str]:
    """Works for every model."""
    return []


def log_weights(
    params: Params, key: PRNGKeyArray, x: Float[Array, "D"], *, config: Config, model: Model
) -> Float[Array, "K"]:
    """K log importance weights, sample j from fold_in(key, j), `chunk_size` at a time."""

    def one(index):
        terms = importance.log_terms(params, jax.random.fold_in(key, index), x, model=model)
        return importance.log_weights(terms)

    return jax.lax.map(one, jnp.arange(config.num_samples), batch_size=config.chunk_size)


def jackknife(log_weights: Float[Array, "K"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """JVI-1 = K L_K - (K-1) mean_i L_{K-1} without w_i, and its jackknife variance.

    Nowozin (2018), eq. 12: bias O(K^-2) instead of O(K^-1), but not a bound. Written as
    L_K + (K-1) [log(1 - 1/K) - mean_i log(1 - w~_i)], which loses no digits to the
    subtraction of two numbers K times larger.
    """
    size = log_weights.shape[0]
    weights = jax.nn.softmax(log_weights)
    largest = jnp.argmax(weights)
    others = jax.nn.logsumexp(log_weights.at[largest].set(-jnp.inf))
    without = jnp.log1p(-weights).at[largest].set(others - jax.nn.logsumexp(log_weights))
    shift = jnp.log1p(-1.0 / size) - jnp.mean(without)
    variance = (size - 1) * jnp.var(without)
    return bounds.iwae(log_weights) + (size - 1) * shift, variance


def build(config: Config, *, model: Model) -> Estimator:
    """L_K (Burda et al. 2016, eq. 8) and JVI-1 from the same K samples."""
    limit = pareto.threshold(config.num_samples)

    def estimate(params, key, x, tuning):
        weights = log_weights(params, key, x, config=config, model=model)
        ess, k_hat = diagnostics.effective_sample_size(weights), pareto.k_hat(weights)
        # Written so that NaN, an unknown k-hat, counts as bad.
        bad = ~(k_hat <= limit)
        watched = Diagnostics(ess, k_hat, bad)
        trusted = (ess >= ESS_NEEDED) & ~bad
        variance = diagnostics.log_mean_variance(weights)
        return {
            "importance": Evidence(bounds.iwae(weights), variance, trusted, watched),
            "jackknife": Evidence(*jackknife(weights), trusted, watched),
        }

    rows = min(config.chunk_size, config.num_samples)
    return Estimator(lambda params, key, x: (), estimate, rows=rows)
