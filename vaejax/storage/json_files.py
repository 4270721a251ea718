"""Reading JSON that may hold anything: checked against a schema, one line where it is off.

A schema says what a value must be:

    str, bool, int      of that type (no bool for int; int fits 64 bits)
    float               a number, whole or not; null is NaN, as `files.plain` writes it
    dict, list          any object, any list
    [schema]            a list whose every item fits
    {"key": schema}     an object; "key?" may be absent, "*" is for all keys not named, and
                        without it they may hold anything
    function            takes the value and returns it, or raises ValueError("needs ...")
    None                anything
"""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

from vaejax.errors import UserError

Schema = type | dict | list | Callable[[Any], Any] | None
_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
}
_MOST_DIGITS = 300  # larger whole numbers have no float64


def file_inside(value: Any) -> str:
    """Schema of the name of a file below the folder of its JSON."""
    parts = pathlib.PurePosixPath(check(value, str)).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in value or "\\" in value:
        raise ValueError("needs the name of a file inside the folder")
    return value


CONFIG = dict  # `config.from_dict` checks every key and value
GROUPS = [[str]]
SEARCH = {
    "search": str,
    "search_seed": int,
    "seeds": None,
    "epochs": [int],
    "space": dict,
    "batches": [[{"name": str, "params": dict, "epochs": int}]],
}
FAILED = {"step": int, "error": str, "retry?": str}
METRICS_ROW = {"step": int, "*": float}
_ESTIMATE = {"value": float, "*": None}
EVALUATION = {
    "protocol": {
        "dataset": str,
        "split": str,
        "num_examples": int,
        "binarization": str,
        "data_sha256": str,
        "num_samples": int,
        "checkpoint_step": int,
        "seed": int,
        "model": dict,
        "objective": dict,
    },
    "estimates": {"*": _ESTIMATE},
    "diagnostics": dict,
    "arrays_sha256?": str,
}
EXPLAIN = {
    "*": {
        "question": str,
        "headline": str,
        "seed": int,
        "seconds": float,
        "config": dict,
        "numbers": dict,
        "sentences": [str],
        "figures": [{"file": file_inside, "caption": str}],
    }
}


def read_json(path: pathlib.Path, schema: Schema = None, *, advice: str = "") -> Any:
    """The JSON at `path`, checked.

    Args:
      path: the file.
      schema: what it must hold.
      advice: what the reader can do where it does not ("evaluate the run again").

    Returns:
      The value, null numbers as NaN.

    Raises:
      UserError: the file is missing, cannot be read, is no JSON or does not fit.
    """
    ending = f"; {advice}" if advice else ""
    try:
        return check(parse(path.read_bytes()), schema)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}{ending}") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: {error}{ending}") from error


def parse(content: bytes) -> Any:
    """The value of JSON bytes. Raises ValueError with one line of reason."""
    if not content.strip():
        raise ValueError("is empty")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is no UTF-8 text") from error
    try:
        return json.loads(text, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"holds a whole number of {len(digits)} digits")
    return int(digits)


def check(value: Any, schema: Schema, where: str = "") -> Any:
    """`value`, with null numbers as NaN. Raises ValueError: what is needed where."""
    if schema is None:
        return value
    if isinstance(schema, dict):
        return _check_object(check(value, dict, where), schema, where)
    if isinstance(schema, list):
        items = enumerate(check(value, list, where))
        return [check(item, schema[0], f"{where}[{index}]") for index, item in items]
    prefix = f"{where}: " if where else ""
    if schema not in _NAMES:
        try:
            return schema(value)
        except ValueError as error:
            raise ValueError(f"{prefix}{error}, got {_short(value)}") from error
    if schema is float and value is None:
        return math.nan
    if not _fits(value, schema):
        raise ValueError(f"{prefix}needs {_NAMES[schema]}, got {_short(value)}")
    return value


def _fits(value: Any, schema: type) -> bool:
    if schema is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if schema is int:
        return type(value) is int and abs(value) < 2**63
    if schema is str:  # halves of a surrogate pair cannot be printed
        return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    return isinstance(value, schema)


def _check_object(value: dict, schema: dict, where: str) -> dict:
    prefix = f"{where}." if where else ""
    named = {key.removesuffix("?"): item for key, item in schema.items() if key != "*"}
    missing = [key for key in named if key not in value and f"{key}?" not in schema]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    return {
        key: check(item, named.get(key, schema.get("*")), f"{prefix}{_short(key)[1:-1]}")
        for key, item in value.items()
    }


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "an object"
    text = repr(value) if not isinstance(value, str) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, none where it is missing; `step` and numbers by name.

    A last line that begins like a row but is no JSON was being written when the process died:
    it is left out.

    Raises:
      UserError: the file cannot be read, or another line is broken or of a wrong type.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            value = parse(line)
        except ValueError as error:
            if number == len(lines) and line.isascii() and line.startswith(b"{"):
                break
            raise _bad_row(path, number, error) from error
        try:
            rows.append(check(value, METRICS_ROW))
        except ValueError as error:
            raise _bad_row(path, number, error) from error
    return rows


def _bad_row(path: pathlib.Path, number: int, error: ValueError) -> UserError:
    return UserError(f"{path}: line {number}: {error}; remove that line, then run again")
