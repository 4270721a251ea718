"""Models, one per file. A module here named `foo` is the model `foo`.

Each module offers `Config`, a frozen dataclass whose `name` is the module's name, and
`build(config, spec) -> Model`. Adding a model is adding a file.
"""

import importlib
import pkgutil
from types import ModuleType

MODELS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}
