"""log p(x) in closed form, for models that have one."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from matplotlib.figure import Figure

from vaejax.evidence.diagnostics import Watched
from vaejax.types import Estimator, Evidence, Model

LABELS = {"exact": "exact"}
JUDGE = 0
REPORT = "rows"


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class Diagnostics(NamedTuple):
    """Nothing to watch."""

    def watched(self) -> Watched:
        """Nothing."""
        return Watched({}, {})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Which models have no closed form."""
    if model.log_marginal is None:
        return [
            "exact: this model has no closed-form log p(x); one with one stochastic layer, a "
            "linear decoder, a normal likelihood and a prior of normals (normal, mixture, vamp) has"
        ]
    return []


def build(config: Config, *, model: Model) -> Estimator:
    """`model.log_marginal` as an estimator without error."""

    def estimate(params, key, x, tuning):
        value = model.log_marginal(params, x)
        trusted = jnp.isfinite(value)
        return {"exact": Evidence(value, jnp.zeros_like(value), trusted, Diagnostics())}

    return Estimator(lambda params, key, x: (), estimate, rows=1, work=1)


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """None."""
    return {}
