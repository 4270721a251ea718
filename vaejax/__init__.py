"""Pure functions that measure how well a variational autoencoder models its data.

`elbo` and `iwae` are bounds on log p(x) of one example; `load`, `train` and `evaluate` work with
runs. They are imported when they are first asked for, so that `import vaejax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaejax.config import Config as Config
    from vaejax.config import Dataset as Dataset
    from vaejax.config import Evaluation as Evaluation
    from vaejax.config import Model as Model
    from vaejax.config import Objective as Objective
    from vaejax.config import Optimizer as Optimizer
    from vaejax.config import Training as Training
    from vaejax.errors import UserError as UserError
    from vaejax.library import Data as Data
    from vaejax.library import Evaluated as Evaluated
    from vaejax.library import Run as Run
    from vaejax.library import build as build
    from vaejax.library import elbo as elbo
    from vaejax.library import evaluate as evaluate
    from vaejax.library import iwae as iwae
    from vaejax.library import load as load
    from vaejax.library import train as train
    from vaejax.types import DataSpec as DataSpec

__version__ = "0.2.0"

_PUBLIC = {
    "config": "Config Dataset Evaluation Model Objective Optimizer Training",
    "errors": "UserError",
    "library": "Data Evaluated Run build elbo evaluate iwae load train",
    "types": "DataSpec",
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vaejax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"vaejax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
