"""Config and sweep files: Python files whose one function returns what is wanted."""

import importlib.util
import pathlib
from typing import Any

from vaejax.errors import UserError, unknown


def call(reference: str, function: str, *, flag: str) -> Any:
    """What `function(argument)` of "path/to/file.py" or "path/to/file.py:argument" returns.

    Raises:
      UserError: naming `flag`: no such file, or a file that does not run.
    """
    path_text, _, argument = reference.partition(":")
    path = pathlib.Path(path_text)
    if not path.is_file():
        legal = sorted(map(str, path.parent.glob("*.py"))) if path.parent.is_dir() else []
        raise unknown(flag, path_text, legal)
    try:
        spec = importlib.util.spec_from_file_location(f"vaejax_file_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        wanted = getattr(module, function)
        return wanted(argument) if argument else wanted()
    except UserError:
        raise
    except Exception as error:  # the file is the user's code: any exception may come
        raise UserError(f"{flag}: {reference}: {type(error).__name__}: {error}") from error
