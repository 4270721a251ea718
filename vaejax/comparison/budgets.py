"""What the validation bound of a run cost, and settings side by side at one cost.

Pure functions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vaejax.comparison.statistics import Run, Setting
from vaejax.evaluation import means

COSTS = ("decoder_evaluations", "seconds")
_SHARED = (
    ("training", "validation_samples"),
    ("dataset", "num_validation"),
    ("dataset", "train_split"),
    ("dataset", "name"),
    ("dataset", "binarization"),
    ("dataset", "binarization_seed"),
)
_NEEDED = (("training", "batch_size"), ("objective", "num_samples"))


class Curve(NamedTuple):
    """The validation L_K of a run in the course of training, [T] each.

    Attributes:
      nats: validation L_K, finite values alone.
      decoder_evaluations: steps * batch size * K up to there.
      seconds: of training up to there; NaN where not noted.
    """

    nats: Float[np.ndarray, "T"]
    decoder_evaluations: Float[np.ndarray, "T"]
    seconds: Float[np.ndarray, "T"]


class EqualBudget(NamedTuple):
    """Best validation L_K of each setting within one budget.

    Attributes:
      cost: "decoder_evaluations" or "seconds".
      budget: that of the run whose validation ended first in this cost.
      reached: mean over seeds by setting, nats; NaN where nothing was validated in it.
    """

    cost: str
    budget: float
    reached: dict[str, float]


def mismatch(runs: Sequence[Run]) -> str | None:
    """Why the validation bounds of the runs cannot share a figure, or None."""
    for section, key in (*_SHARED, *_NEEDED):
        for run in runs:
            part = run.config.get(section)
            if not isinstance(part, dict) or key not in part:
                return f"the config of {run.name} has no {section}.{key}"
    for section, key in _NEEDED:
        for run in runs:
            value = run.config[section][key]
            if type(value) is not int or value < 1:
                return f"config.{section}.{key} is {value!r} in {run.name}"
    for section, key in _SHARED:
        found = {repr(run.config[section][key]) for run in runs}
        if len(found) > 1:
            return f"config.{section}.{key} differs ({', '.join(sorted(found))})"
    values = {repr(run.result["protocol"].get("values")) for run in runs}
    if len(values) > 1:
        return f"x is unlike ({', '.join(sorted(values))})"
    return None


def decoder_evaluations(run: Run, step: int) -> int:
    """Decoder evaluations spent on training up to `step`: steps * batch size * K."""
    return step * run.config["training"]["batch_size"] * run.config["objective"]["num_samples"]


def curve(run: Run) -> Curve:
    """Validation L_K against what it cost."""
    rows = [row for row in run.metrics if math.isfinite(row.get("validation/iwae", math.nan))]
    columns = (
        [row["validation/iwae"] for row in rows],
        [decoder_evaluations(run, row["step"]) for row in rows],
        [row.get("seconds", math.nan) for row in rows],
    )
    return Curve(*(np.asarray(column, np.float64) for column in columns))


def equal_budget(parts: Sequence[Setting], *, cost: str) -> EqualBudget | None:
    """Best validation L_K of each setting within the budget of the cheapest run.

    Returns:
      None where no run of any setting noted a validation and its cost.
    """
    curves = {
        setting.name: [
            c for run in setting.runs if np.isfinite(getattr(c := curve(run), cost)).any()
        ]
        for setting in parts
    }
    every = [curve for same in curves.values() for curve in same]
    if not every:
        return None
    budget = float(min(np.nanmax(getattr(curve, cost)) for curve in every))
    reached = {}
    for name, same in curves.items():
        best = [np.max(c.nats[getattr(c, cost) <= budget], initial=-math.inf) for c in same]
        if best:
            reached[name] = means.over_seeds(best).value
    finite = {name: value if math.isfinite(value) else math.nan for name, value in reached.items()}
    return EqualBudget(cost, budget, finite)


def sentence(found: EqualBudget) -> str:
    """What each setting reached within the cheapest run's budget."""
    reached = ", ".join(
        f"{name} {'(not validated yet)' if math.isnan(value) else f'{value:.3f}'}"
        for name, value in found.reached.items()
    )
    unit = "decoder evaluations" if found.cost == "decoder_evaluations" else "seconds of training"
    return f"Best validation L_k within {found.budget:,.0f} {unit}: {reached}."
