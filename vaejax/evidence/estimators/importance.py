"""Importance sampling from q(z|x): L_K, its jackknife correction, ESS and Pareto k-hat."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vaejax import numerics
from vaejax.evidence import diagnostics, pareto
from vaejax.objectives import bounds, importance
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

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


def jackknife(log_weights: Float[Array, "K"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """JVI-1 of `bounds.jackknife`, and its jackknife variance (Nowozin 2018, eq. 12)."""
    variance = (log_weights.shape[0] - 1) * jnp.var(numerics.log_left_out(log_weights))
    return bounds.jackknife(log_weights), variance


def build(config: Config, *, model: Model) -> Estimator:
    """L_K (Burda et al. 2016, eq. 8) and JVI-1 from the same K samples."""
    limit = pareto.threshold(config.num_samples)

    def estimate(params, key, x, tuning):
        terms = importance.chunked_log_terms(
            params,
            key,
            x,
            model=model,
            num_samples=config.num_samples,
            chunk_size=config.chunk_size,
        )
        weights = importance.log_weights(terms)
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
