"""Experiments that show what log p(x) is: one question each, answered by numbers of a run.

Each module is an `explain.result.Experiment`: `Config`, `QUESTION`, `compute`, `numbers`,
`headline`, `sentences` and `pictures`. Adding one is writing it and naming it here; the
order is the order of the page.
"""

from types import ModuleType

from vaejax.explain import (
    density,
    fixed_model,
    identity,
    maximum_likelihood,
    reconstruction,
    richer_parts,
    tighter_bounds,
    trained_model,
)

EXPERIMENTS: dict[str, ModuleType] = {
    "identity": identity,
    "fixed_model": fixed_model,
    "trained_model": trained_model,
    "reconstruction": reconstruction,
    "density": density,
    "maximum_likelihood": maximum_likelihood,
    "tighter_bounds": tighter_bounds,
    "richer_parts": richer_parts,
}
