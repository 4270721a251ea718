"""Estimators of log p(x), one per file. A module here named `foo` is the estimator `foo`.

Each module offers

    LABELS             {name: what the value is}: one entry per result, a label of `LEGAL`
    Config             a frozen dataclass, its budget
    problems(config, *, model, num_latents) -> list[str]   what it cannot do, and why
    build(config, *, model) -> Estimator                   see `vaejax.types`

Adding an estimator is adding a file.
"""

import importlib
import pkgutil
from types import ModuleType

LEGAL = ("lower bound", "upper bound", "estimate", "estimate, not a bound", "exact")

ESTIMATORS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}
