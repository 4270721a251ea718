"""Annealed importance sampling (AIS): log mean of weights gathered on the way to p(z|x)."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vaejax.evidence import annealing, diagnostics
from vaejax.evidence import figures as plots
from vaejax.evidence.diagnostics import Watched
from vaejax.models import density_cost, supports
from vaejax.objectives import bounds
from vaejax.types import Estimator, Evidence, Model

LABELS = {"annealed": "lower bound"}
JUDGE = 3
REPORT = "rows"
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

    def watched(self) -> Watched:
        """Totals of what went wrong, mean ESS, mean acceptance along the chain."""
        counts = {name: int(np.sum(getattr(self, name))) for name in self._fields[2:]}
        acceptance = np.mean(self.acceptance, axis=0, dtype=np.float64).tolist()
        return Watched(counts, {"ess": float(np.mean(self.ess)), "acceptance": acceptance})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Needs real latents; with a posterior of a slow density it works from the prior alone."""
    return start_problems("annealed", config, model=model)


def start_problems(name: str, budget: annealing.Budget, *, model: Model) -> list[str]:
    """Chains move by HMC, and those that start at q(z|x) ask its density at every step."""
    if model.support.is_discrete:
        return [
            f"{name}: moves by HMC, along the gradient in z, and these latents are "
            f"{supports.described(model.support)}; use gibbs, or enumeration, up to 2^20 "
            f"states"
        ]
    slow = density_cost.too_slow(model)
    if slow is None or budget.start == "prior":
        return []
    return [f"{name}: start={budget.start} {slow}; set evidence.{name}.start=prior"]


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
    work = config.num_chains * config.num_temperatures * config.num_leapfrog
    return Estimator(
        pilot,
        estimate,
        rows=config.num_chains,
        work=work,
        pilot_examples=config.pilot_examples,
    )


def figures(results: dict[str, Evidence], tuning: annealing.Schedule) -> dict[str, Figure]:
    """Acceptance, step size and temperature along the chain."""
    acceptance = np.mean(results["annealed"].diagnostics.acceptance, axis=0)
    return {"annealed_moves": plots.annealing(*tuning, acceptance)}
