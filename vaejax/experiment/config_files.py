"""What --config may name: a Python file, or the config.json of a run."""

import pathlib

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.storage import first_edition, json_files


def load(reference: str) -> Config:
    """The config that "path/to/file.py", "path/to/file.py:argument" or "run/config.json" holds.

    A run of vaejax 0.1 gives the config of today that trains it again.

    Raises:
      UserError: no such file, a file that does not run or cannot be read, or a bad result.
    """
    if not reference.endswith(".json"):
        return config_lib.load(reference)
    values = json_files.read_json(pathlib.Path(reference), json_files.CONFIG)
    read = first_edition.converted if first_edition.wrote(values) else config_lib.from_dict
    try:
        return read(values)
    except UserError as error:
        raise UserError(f"--config: {reference}: {error}") from error
