"""Reading, checking and replacing fields of nested frozen dataclasses by dotted path."""

import ast
import dataclasses
import math
import types
import typing
from typing import Any, Literal

from vaejax.errors import UserError, unknown


def field(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    traced: bool = False,
) -> Any:
    """A dataclass field with its meaning, range [low, high] or [low, below), and tracing."""
    metadata = {"doc": doc, "low": low, "high": high, "below": below, "traced": traced}
    return dataclasses.field(default=default, metadata=metadata)


def _fields(node: Any) -> dict[str, dataclasses.Field]:
    return {item.name: item for item in dataclasses.fields(node)}


def _walk(node: Any, prefix: str = ""):
    """Yields (path, value, field) of every leaf."""
    for name, item in _fields(node).items():
        value = getattr(node, name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, item


def put(node: Any, parts: list[str], value: Any) -> Any:
    """`node` with the leaf at `parts` replaced, without checks."""
    if len(parts) > 1:
        value = put(getattr(node, parts[0]), parts[1:], value)
    return dataclasses.replace(node, **{parts[0]: value})


def replace(node: Any, path: str, value: Any) -> Any:
    """`node` with the leaf at dotted `path` replaced by `value`, coerced to its type.

    Raises:
      UserError: no such path, or a value of the wrong type or out of range.
    """
    leaves = {leaf: item for leaf, _, item in _walk(node)}
    if path not in leaves:
        parent, _, name = path.rpartition(".")
        siblings = [leaf for leaf in leaves if leaf.rpartition(".")[0] == parent]
        tail = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name]
        raise unknown("config", path, tail or siblings or leaves)
    coerced = _coerce(f"config.{path}", leaves[path].type, value)
    _check_range(f"config.{path}", leaves[path], coerced)
    return put(node, path.split("."), coerced)


def check(node: Any) -> None:
    """Checks type and range of every leaf; raises UserError at the first that is off."""
    for path, value, item in _walk(node):
        if isinstance(value, str) and item.type in (int, float):
            raise UserError(f"config.{path}: needs {describe(item.type)}, got {value!r}")
        _check_range(f"config.{path}", item, _coerce(f"config.{path}", item.type, value))


def traced(node: Any) -> dict[str, Any]:
    """The leaves marked as traced that are set, by dotted path."""
    return {
        path: value
        for path, value, item in _walk(node)
        if item.metadata.get("traced") and value is not None
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one dict with dotted keys."""
    flat = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def plain(value: Any) -> Any:
    """Tuples to lists, all the way down, so that JSON gives back an equal value."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def describe(annotation: Any) -> str:
    """A type as a reader would say it."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if annotation in names:
        return names[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a tuple of {describe(arguments[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else describe(a) for a in arguments)
    return str(annotation)


def _literal(value: Any) -> Any:
    """Python's value of command-line text where it has one: "(1, 2)", "1e-3", "none"."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("none", "null", "true", "false"):
        return {"none": None, "null": None, "true": True, "false": False}[value.strip().lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _coerce(path: str, annotation: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    wrong = UserError(f"{path}: needs {describe(annotation)}, got {value!r}")
    if origin is Literal:
        if value not in arguments:
            raise unknown(path, value, arguments)
        return value
    if annotation is str:
        if isinstance(value, str):
            return value
        raise wrong
    literal = _literal(value)
    if origin in (types.UnionType, typing.Union):
        if literal is None:
            return None
        inner = next(argument for argument in arguments if argument is not type(None))
        return _coerce(path, inner, value)
    if origin is tuple:
        items = literal if isinstance(literal, (tuple, list)) else (literal,)
        return tuple(_coerce(path, arguments[0], item) for item in items)
    if annotation is bool and isinstance(literal, bool):
        return literal
    if isinstance(literal, bool) or not isinstance(literal, (int, float)):
        raise wrong
    if annotation is int and literal == literal and float(literal).is_integer():
        return int(literal)
    if annotation is float:
        return float(literal)
    raise wrong


def _check_range(path: str, item: dataclasses.Field, value: Any) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_number(path, item.metadata, number)


def _check_number(path: str, metadata: Any, number: float) -> None:
    low, high, below = (metadata.get(name) for name in ("low", "high", "below"))
    fits = math.isfinite(number)
    fits = fits and (low is None or number >= low) and (high is None or number <= high)
    if not fits or (below is not None and number >= below):
        legal = [f">= {low}"] if low is not None else []
        legal += [f"<= {high}"] if high is not None else []
        legal += [f"< {below}"] if below is not None else []
        raise UserError(f"{path}: must be {' and '.join(['finite', *legal])}, got {number!r}")
