"""Importance sampling from q(z|x): L_K and its jackknife correction, with ESS and k-hat.

They are read off the evaluation's own K samples per example: nothing is sampled here.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from vaejax.evidence import figures as plots
from vaejax.evidence import pareto
from vaejax.evidence import weights as weights_lib
from vaejax.evidence.diagnostics import Watched
from vaejax.evidence.weights import Weights
from vaejax.types import Evidence, Model

LABELS = {"importance": "lower bound", "jackknife": "estimate, not a bound"}
JUDGE = 6
REPORT = "rows"


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose: the samples are those of the evaluation."""


class Diagnostics(NamedTuple):
    """Attributes:

    num_samples: K.
    ess: effective sample size of the K weights.
    pareto_k: k-hat of their tail.
    pareto_k_bad: whether it is above the threshold for K samples.
    """

    num_samples: int
    ess: Float[np.ndarray, "*N"]
    pareto_k: Float[np.ndarray, "*N"]
    pareto_k_bad: Bool[np.ndarray, "*N"]

    def watched(self) -> Watched:
        """Means over examples."""
        means = {name: float(np.mean(getattr(self, name))) for name in self._fields[1:]}
        return Watched({}, means)


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """One sample has no error and no jackknife."""
    if num_samples < 2:
        return [f"importance: needs evaluation.num_samples >= 2, got {num_samples}"]
    return []


def read(weights: Weights, *, num_samples: int) -> dict[str, Evidence]:
    """L_K (Burda et al. 2016, eq. 8) and JVI-1 (Nowozin 2018), [N] each, of K samples."""
    bad = weights_lib.k_hat_is_bad(weights.pareto_k, num_samples)
    watched = Diagnostics(num_samples, weights.ess, weights.pareto_k, bad)
    believed = weights_lib.trusted(weights, num_samples=num_samples)
    names = {"importance": f"iwae_{num_samples}", "jackknife": "jackknife"}
    return {
        row: Evidence(weights.values[name], weights.variances[name], believed, watched)
        for row, name in names.items()
    }


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """The k-hats, where any is known."""
    watched = results["importance"].diagnostics
    if not np.isfinite(watched.pareto_k).any():
        return {}
    limit = pareto.threshold(watched.num_samples)
    return {"pareto_k": plots.pareto_k(watched.pareto_k, limit, watched.num_samples)}
