"""The configuration of `scripts/explain.py`: one section per experiment of `vaejax.explain`."""

import dataclasses
from typing import Any

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


def override_all(config: Config, overrides: dict[str, Any]) -> Config:
    """All of `overrides` ("identity.num_examples": "4"); text is parsed by type.

    Raises:
      UserError: unknown path, or a value of the wrong type or out of range.
    """
    for path, value in overrides.items():
        config = schema.replace(config, path, value)
    schema.check(config)
    return config


def load(reference: str) -> Config:
    """Runs `get_config(argument)` of "path/to/file.py" or "path/to/file.py:argument".

    Raises:
      UserError: no such file, a file that does not run, or a bad result.
    """
    config = python_files.call(reference, "get_config", flag="--config")
    if not isinstance(config, Config):
        raise UserError(
            f"--config: {reference}: get_config must return vaejax.explain_config.Config"
        )
    schema.check(config)
    return config
