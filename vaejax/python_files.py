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
    if not reference.strip():
        raise UserError(f"{flag}: needs a file, got {reference!r} (a shell variable not set?)")
    path, argument = _file_and_argument(reference)
    if not path.is_file():
        legal = sorted(map(str, path.parent.glob("*.py"))) if path.parent.is_dir() else []
        raise unknown(flag, str(path), legal)
    try:
        spec = importlib.util.spec_from_file_location(f"vaejax_file_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        wanted = getattr(module, function)
        return wanted(argument) if argument else wanted()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code: anything may come, sys.exit too
        raise UserError(f"{flag}: {reference}: {type(error).__name__}: {error}") from error


def _file_and_argument(reference: str) -> tuple[pathlib.Path, str]:
    """ "path/to/file.py:argument" in two; a colon in the path is one where the file exists."""
    if pathlib.Path(reference).is_file():
        return pathlib.Path(reference), ""
    parts = reference.split(":")
    for count in range(len(parts) - 1, 0, -1):
        path = pathlib.Path(":".join(parts[:count]))
        if path.is_file():
            return path, ":".join(parts[count:])
    return pathlib.Path(parts[0]), ":".join(parts[1:])
