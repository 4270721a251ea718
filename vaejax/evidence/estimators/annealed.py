"""Annealed importance sampling (AIS): log mean of weights gathered on the way to p(z|x)."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vaejax.evidence import annealing, diagnostics
from vaejax.objectives import bounds
from vaejax.types import Estimator, Evidence, Model

LABELS = {"annealed": "lower bound"}
TRUSTED_VARIANCE = 0.01  # the delta-method variance at an ESS of 100


@dataclasses.dataclass(frozen=True)
class Config(annealing.Budget):
    """The budget of annealed chains."""


class Diagnostics(NamedTuple):
    """Attributes:

    ess: effective sample size of the chains' weights, at most their number.
    acceptance: mean acceptance of the move at each temperature.
    divergent_moves: moves, of all chains, that diverged (each was rejected).
    broken_chains: chains without a finite weight; they count with weight zero.
    """

    ess: Float[Array, "*N"]
    acceptance: Float[Array, "*N T"]
    divergent_moves: Int[Array, "*N"]
    broken_chains: Int[Array, "*N"]


def problems(config: Config, *, model: Model, num_latents: int) -> list[str]:
    """Works for every model."""
    return []


def mean_weight_variance(log_weights: Float[Array, "C"]) -> Float[Array, ""]:
    """Variance of log mean w by the delta method, for few weights.

    The unbiased sample variance, times (C-1)/(C-3) from five weights on: an error that is
    itself estimated makes deviations Student-t with C-1 degrees of freedom, and this is
    the variance of that distribution.
    """
    size = log_weights.shape[0]
    return diagnostics.log_mean_variance(log_weights) * size / (size - 3 if size > 4 else size - 1)


def summarize(chains: annealing.Chain) -> Evidence:
    """C forward chains to one estimate; a chain whose weight is not finite counts as zero,
    which lowers a lower bound and is counted."""
    broken = ~jnp.isfinite(chains.log_weight)
    log_weights = jnp.where(broken, -jnp.inf, chains.log_weight)
    variance = mean_weight_variance(log_weights)
    watched = Diagnostics(
        diagnostics.effective_sample_size(log_weights),
        jnp.mean(chains.acceptance, axis=0),
        jnp.sum(chains.num_divergent),
        jnp.sum(broken),
    )
    trusted = (variance <= TRUSTED_VARIANCE) & ~jnp.any(broken)
    return Evidence(bounds.iwae(log_weights), variance, trusted, watched)


def build(config: Config, *, model: Model) -> Estimator:
    """log((1/C) sum_c w_c) over C chains (Neal 2001, eq. 5 and 11)."""

    def estimate(params, key, x, tuning):
        path_key, chains_key = jax.random.split(key)
        path = annealing.make_path(params, path_key, x, model=model, start=config.start)
        keys = jax.random.split(chains_key, config.num_chains)
        run = functools.partial(annealing.forward, num_leapfrog=config.num_leapfrog)
        return {"annealed": summarize(jax.vmap(lambda key: run(key, path, tuning))(keys))}

    pilot = functools.partial(annealing.pilot, model=model, budget=config)
    return Estimator(pilot, estimate, rows=config.num_chains)
