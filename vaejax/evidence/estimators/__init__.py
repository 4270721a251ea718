"""Estimators of log p(x), one per file. A module here named `foo` is the estimator `foo`.

Each module offers

    LABELS             {name: what the value is}: one entry per result, a label of `LEGAL`
    JUDGE              which log p(x) the gaps take where several are at hand: that of the
                       smallest number; None: never this one
    REPORT             "rows": its results are estimates of the caller's examples;
                       "sandwich": a lower and an upper bound on examples of its own
    Config             a frozen dataclass, its budget
    problems(config, *, model, num_latents, num_samples) -> list[str]
                       what it cannot do, and why; num_samples is K of the evaluation
    figures(results, tuning) -> {name: Figure}   what is worth looking at

and one of

    build(config, *, model) -> Estimator         it samples; see `vaejax.types`
    read(weights, *, num_samples) -> {name: Evidence}   it reads the K log weights per
                       example that the evaluation has sampled; see `vaejax.evidence.weights`

Its diagnostics are a NamedTuple with a method `watched() -> diagnostics.Watched`. Adding an
estimator is adding a file.
"""

import importlib
import pkgutil
from types import ModuleType

LEGAL = ("lower bound", "upper bound", "estimate", "estimate, not a bound", "exact")

ESTIMATORS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}


def reads_evaluation(name: str) -> bool:
    """Whether the estimator reads the evaluation's samples instead of drawing its own."""
    return hasattr(ESTIMATORS[name], "read")


def by_trust() -> list[str]:
    """Names of the results that may stand for log p(x), the most trustworthy first."""
    judges = [module for module in ESTIMATORS.values() if module.JUDGE is not None]
    return [next(iter(module.LABELS)) for module in sorted(judges, key=lambda module: module.JUDGE)]
