"""Config and sweep files: Python files whose one function returns what is wanted."""

import importlib.util
import pathlib
from typing import Any

from vaejax.errors import UserError, unknown

_PACKAGE = pathlib.Path(__file__).resolve().parent


def shipped(path: str | pathlib.Path) -> pathlib.Path:
    """A file of scripts/ or configs/: of the package as installed, or beside it in a checkout."""
    inside = _PACKAGE / path
    return inside if inside.is_file() else _PACKAGE.parent / path


def call(reference: str, function: str, *, flag: str, unlike: tuple[str, str] = ("", "")) -> Any:
    """What `function(argument)` of "path/to/file.py" or "path/to/file.py:argument" returns.

    A path that begins with "configs/", and is no file here, is one of those that come with vaejax.

    Raises:
      UserError: naming `flag`: no such file, a file that does not run, or one that defines the
        function `unlike[0]`, a file of another kind, for which `unlike[1]` says what to do.
    """
    if not reference.strip():
        raise UserError(f"{flag}: needs a file, got {reference!r} (a shell variable not set?)")
    path, argument = _file_and_argument(reference)
    if not path.is_file():
        path = _shipped_config(path, flag)
    try:
        spec = importlib.util.spec_from_file_location(f"vaejax_file_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UserError(f"{flag}: {reference}: is no Python file; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _refuse_other_kind(module, function, *unlike, where=f"{flag}: {reference}")
        wanted = getattr(module, function)
        return wanted(argument) if argument else wanted()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code: anything may come, sys.exit too
        raise UserError(f"{flag}: {reference}: {type(error).__name__}: {error}") from error


def _refuse_other_kind(module: Any, function: str, other: str, advice: str, *, where: str) -> None:
    if not other or not hasattr(module, other):
        return
    if hasattr(module, function):
        raise UserError(f"{where}: defines {function} and {other}; keep one of them")
    raise UserError(f"{where}: defines {other}, not {function}; {advice}")


def _shipped_config(path: pathlib.Path, flag: str) -> pathlib.Path:
    """The config of that name that comes with vaejax. Raises UserError where there is none."""
    root, is_ours = shipped("configs/digits.py").parent.parent, path.parts[:1] == ("configs",)
    if is_ours and (root / path).is_file():
        return root / path
    legal = set(path.parent.glob("*.py"))
    if is_ours:
        legal |= {file.relative_to(root) for file in (root / path.parent).glob("*.py")}
    raise unknown(flag, str(path), sorted(map(str, legal)))


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
