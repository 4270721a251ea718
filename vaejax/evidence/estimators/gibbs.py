"""Annealed importance sampling (AIS) of discrete latents, moved by Gibbs sampling."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vaejax.evidence import annealing, diagnostics, gibbs, paths
from vaejax.evidence import figures as plots
from vaejax.evidence.diagnostics import Watched
from vaejax.evidence.estimators import annealed
from vaejax.models import density_cost, latents, supports
from vaejax.objectives import bounds
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

LABELS = {"gibbs": "lower bound"}
JUDGE = 4
REPORT = "rows"
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Config:
    """The budget of annealed chains of Gibbs sweeps."""

    start: Literal["posterior", "prior"] = field("posterior", "chains start at q(z|x) or p(z)")
    num_temperatures: int = field(100, "temperatures T after the first", low=1, high=_MOST)
    temperatures: Literal["linear", "sigmoid"] = field("linear", "their spacing")
    num_chains: int = field(16, "independent chains per example", low=2, high=_MOST)
    num_sweeps: int = field(1, "times that each latent is drawn anew at a temperature", low=1)


class Diagnostics(NamedTuple):
    """Attributes:

    ess: effective sample size of the chains' weights, at most their number.
    changed: share of the latents that changed, at each temperature.
    broken_chains: chains without a finite weight; they count with weight zero.
    """

    ess: Float[Array, "*N"]
    changed: Float[Array, "*N T"]
    broken_chains: Int[Array, "*N"]

    def watched(self) -> Watched:
        """What went wrong, mean ESS, the mean share that changed along the chain."""
        changed = np.mean(self.changed, axis=0, dtype=np.float64).tolist()
        counts = {"broken_chains": int(np.sum(self.broken_chains))}
        return Watched(counts, {"ess": float(np.mean(self.ess)), "changed": changed})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Needs latents whose conditionals can be summed."""
    if not model.support.is_discrete:
        return [
            "gibbs: draws each latent from its conditional, which real vectors have in no simple "
            "form; use annealed, which moves them by HMC"
        ]
    slow = density_cost.too_slow(model)
    if slow is None or config.start == "prior":
        return []
    return [f"gibbs: start={config.start} {slow}; set evidence.gibbs.start=prior"]


def build(config: Config, *, model: Model) -> Estimator:
    """log((1/C) sum_c w_c) over C chains (Neal 2001, eq. 5 and 11)."""
    temperatures = annealing.spacing(config.temperatures, config.num_temperatures)

    def estimate(params, key, x, tuning):
        ends = paths.ends(params, x, model=model, start=config.start)
        path = gibbs.Path(paths.draw(ends.base), ends.log_densities, model.support)
        one = lambda key: gibbs.forward(  # noqa: E731
            key, path, temperatures, num_sweeps=config.num_sweeps
        )
        chains = jax.vmap(one)(jax.random.split(key, config.num_chains))
        broken = ~jnp.isfinite(chains.log_weight)
        log_weights = jnp.where(broken, -jnp.inf, chains.log_weight)
        variance = annealed.mean_weight_variance(log_weights)
        watched = Diagnostics(
            diagnostics.effective_sample_size(log_weights),
            jnp.mean(chains.changed, axis=0),
            jnp.sum(broken),
        )
        trusted = (variance <= annealed.TRUSTED_VARIANCE) & ~jnp.any(broken)
        return {"gibbs": Evidence(bounds.iwae(log_weights), variance, trusted, watched)}

    size, _ = latents.unraveller(jax.eval_shape(model.init, jax.random.key(0)), model=model)
    values = supports.num_groups(model.support, size) * supports.num_others(model.support)
    work = config.num_chains * config.num_temperatures * config.num_sweeps * values
    rows = config.num_chains * supports.num_others(model.support)
    return Estimator(lambda params, key, x: (), estimate, rows=rows, work=work)


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """How many latents change along the chain."""
    changed = np.mean(np.asarray(results["gibbs"].diagnostics.changed), axis=0)
    panel = ("share of latents that change", changed, (0.0, 1.0))
    return {"gibbs_moves": plots.along_chain([panel])}
