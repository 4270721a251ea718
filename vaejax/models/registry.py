"""Models by name. Each module offers `Config`, `problems(config)` and `build(config, spec)`."""

from types import ModuleType

from vaejax.models import linear_gaussian, mlp

MODELS: dict[str, ModuleType] = {"linear_gaussian": linear_gaussian, "mlp": mlp}
