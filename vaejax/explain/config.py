"""The configuration of `scripts/explain.py`: one section per experiment of `vaejax.explain`."""

import dataclasses

from vaejax import python_files, schema
from vaejax.errors import UserError
from vaejax.explain.experiments import EXPERIMENTS

Config = dataclasses.make_dataclass(
    "Config",
    [
        (name, module.Config, dataclasses.field(default_factory=module.Config))
        for name, module in EXPERIMENTS.items()
    ],
    frozen=True,
    namespace={"__doc__": "The budget of each experiment, by name."},
)


def load(reference: str) -> Config:
    """Runs `get_config(argument)` of "path/to/file.py" or "path/to/file.py:argument".

    Raises:
      UserError: no such file, a file that does not run, or a bad result.
    """
    config = python_files.call(reference, "get_config", flag="--config")
    if not isinstance(config, Config):
        raise UserError(
            f"--config: {reference}: get_config must return vaejax.explain.config.Config"
        )
    return schema.checked(config)
