"""Reading, checking and replacing fields of nested frozen dataclasses by dotted path."""

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import jax
import numpy as np

from vaejax import parts
from vaejax.errors import UserError, shown, unknown
from vaejax.parts import Part, Registry

T = TypeVar("T")

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def field(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    traced: bool = False,
    identity: bool = True,
    parts: Registry | None = None,
) -> Any:
    """A dataclass field with what must be known of it.

    Args:
      default: its value unless given; text for a Part.
      doc: its meaning.
      low, high, below: its range [low, high] or [low, below).
      traced: whether compiled programs take it as an argument: a number that changes
        neither shapes nor code.
      identity: whether it is part of what a run is; places and budgets are not.
      parts: for a Part, the registry it names an entry of.
    """
    if parts is not None:
        default = _default_part(default, parts)
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "below": below,
        "traced": traced,
        "identity": identity,
        "parts": parts,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _default_part(default: Any, registry: Registry) -> Any:
    if default is None:
        return None
    if isinstance(default, tuple):
        return tuple(parts.parse(item, registry, path="default") for item in default)
    return parts.parse(default, registry, path="default")


def register(cls: type[T]) -> type[T]:
    """Registers a config dataclass with JAX: traced fields are data, the rest is static."""
    fields = dataclasses.fields(cast(Any, cls))
    data = [item.name for item in fields if _is_data(item)]
    static = [item.name for item in fields if not _is_data(item)]
    return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=static)


def _is_data(item: dataclasses.Field) -> bool:
    default = item.default_factory
    nested = default is not dataclasses.MISSING and dataclasses.is_dataclass(default)
    return nested or bool(item.metadata.get("traced"))


def leaves(node: Any, prefix: str = ""):
    """Yields (path, value, field) of every leaf."""
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Part):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value, item


def _put(node: Any, names: list[str], value: Any) -> Any:
    if len(names) > 1:
        value = _put(getattr(node, names[0]), names[1:], value)
    return dataclasses.replace(node, **{names[0]: value})


def replace(node: Any, path: str, value: Any, *, root: str = "config") -> Any:
    """`node` with the leaf at dotted `path` replaced by `value`, in its type.

    Text from the command line comes through `from_text` first. numpy's integers and floats,
    lists for tuples, and whole floats for integers are taken as they are meant.

    Raises:
      UserError: no such path, or a value of the wrong type or out of range.
    """
    fields = {leaf: item for leaf, _, item in leaves(node)}
    if path not in fields:
        parent, _, name = path.rpartition(".")
        siblings = [leaf for leaf in fields if leaf.rpartition(".")[0] == parent]
        tail = [leaf for leaf in fields if leaf.rpartition(".")[2] == name]
        raise unknown(root, path, tail or siblings or fields)
    return _put(node, path.split("."), _checked(f"{root}.{path}", fields[path], value))


def from_text(node: Any, path: str, text: str) -> Any:
    """Python's value of command-line text for the leaf at `path`: "(1, 2)", "1e-3", "none".

    Text stays text where the leaf is text or a part, or where it is no Python literal.
    """
    item = {leaf: item for leaf, _, item in leaves(node)}.get(path)
    if item is None or item.type is str or typing.get_origin(item.type) is Literal:
        return text
    lowered = text.strip().lower()
    optional = type(None) in typing.get_args(item.type)
    if lowered in ("none", "null") and optional:
        return None
    if item.metadata.get("parts") is not None:
        return text
    if str in typing.get_args(item.type):
        return text
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return ast.literal_eval(parts.expression(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def checked(node: Any, *, root: str = "config") -> Any:
    """`node` with every leaf in its type; raises UserError at the first that is off."""
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise UserError(f"{root}: needs a config, got {shown(node)}")
    changes = {}
    for item in dataclasses.fields(node):
        value, path = getattr(node, item.name), f"{root}.{item.name}"
        nested = item.default_factory
        if isinstance(nested, type):
            if not isinstance(value, nested):
                raise UserError(
                    f"{path}: needs a {nested.__module__}.{nested.__name__}, got {shown(value)}"
                )
            changes[item.name] = checked(value, root=path)
        else:
            changes[item.name] = _checked(path, item, value)
    return dataclasses.replace(node, **changes)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def to_dict(node: Any) -> dict[str, Any]:
    """Nested dict of plain values, as JSON holds it; parts are text, tuples lists."""
    return {item.name: _plain(getattr(node, item.name)) for item in dataclasses.fields(node)}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return str(value)
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def describe(annotation: Any) -> str:
    """A type as a reader would say it."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    names |= {Part: "name or name(option=value, ...)"}
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


def _checked(path: str, item: dataclasses.Field, value: Any) -> Any:
    coerced = _coerce(path, item.type, value, item.metadata.get("parts"))
    for number in coerced if isinstance(coerced, tuple) else (coerced,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_number(path, item.metadata, number)
    return coerced


def _coerce(path: str, annotation: Any, value: Any, registry: Registry | None) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    wrong = UserError(f"{path}: needs {describe(annotation)}, got {shown(value)}")
    if isinstance(value, np.generic):
        value = value.item()
    if origin is Literal:
        if not any(type(value) is type(legal) and value == legal for legal in arguments):
            raise unknown(path, value, list(map(str, arguments)))
        return value
    if annotation is Part:
        assert registry is not None
        if not isinstance(value, (str, Part)):
            raise wrong
        return parts.parse(value, registry, path=path)
    if annotation is str or annotation is bool:
        if isinstance(value, annotation):
            return value
        raise wrong
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        inner = next(argument for argument in arguments if argument is not type(None))
        return _coerce(path, inner, value, registry)
    if origin is tuple:
        if isinstance(value, str) and arguments[0] is Part:
            value = parts.split(value)
        items = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(_coerce(path, arguments[0], item, registry) for item in items)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong
    if annotation is int and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if annotation is float:
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{path}: must be finite, got {shown(value)}")
        return float(value)
    raise wrong


def _check_number(path: str, metadata: Any, number: float) -> None:
    low, high, below = (metadata.get(name) for name in ("low", "high", "below"))
    fits = isinstance(number, int) or math.isfinite(number)
    fits = fits and (low is None or number >= low) and (high is None or number <= high)
    if not fits or (below is not None and number >= below):
        legal = [f">= {low}"] if low is not None else []
        legal += [f"<= {high}"] if high is not None else []
        legal += [f"< {below}"] if below is not None else []
        raise UserError(f"{path}: must be {' and '.join(['finite', *legal])}, got {shown(number)}")
    if isinstance(number, float) and number and not _SMALLEST <= abs(number) <= _LARGEST:
        kind = "0" if abs(number) < 1.0 else "infinite"
        raise UserError(f"{path}: {number!r} is {kind} in float32; choose another value")
