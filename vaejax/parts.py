"""A named function with options, as configs hold it: `name` or `name(option=value)`.

The registry's function is the only description of its options: names and defaults come
from its keyword-only parameters, so that a new function needs no other place.
"""

import ast
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vaejax.errors import UserError, shown, unknown

_LARGEST = float(np.finfo(np.float32).max)
Registry = Mapping[str, Callable]


@dataclasses.dataclass(frozen=True)
class Part:
    """One entry of a registry with all its options.

    Registered with JAX: options of type float, or tuples of floats, are data, which a compiled
    program takes as arguments; everything else is static.

    Attributes:
      name: of the entry.
      options: (option, value) pairs, every option of the entry, in its order.
      data: names of the options that are data.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    data: tuple[str, ...] = ()

    def __lt__(self, other: "Part") -> bool:
        """By text: JAX sorts the keys of dictionaries."""
        return str(self) < str(other)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options)})"


def _flatten(part: Part):
    static = tuple((key, None if key in part.data else (value,)) for key, value in part.options)
    numbers = tuple(value for key, value in part.options if key in part.data)
    return numbers, (part.name, static, part.data)


def _unflatten(static, numbers) -> Part:
    name, options, data = static
    rest = iter(numbers)
    return Part(name, tuple((k, next(rest) if v is None else v[0]) for k, v in options), data)


jax.tree_util.register_pytree_node(Part, _flatten, _unflatten)


def options_of(function: Callable) -> dict[str, Any]:
    """The keyword-only parameters of `function` with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def bind(part: Part, registry: Registry) -> Callable:
    """The function that `part` names, with its options filled in."""
    return functools.partial(registry[part.name], **dict(part.options))


def parse(text: str | Part, registry: Registry, *, path: str) -> Part:
    """The part that `text` names, defaults filled in; a Part is checked in the same way.

    Raises:
      UserError: `path`, unknown names with the nearest one, options that the function does
        not have or of another type than their default, or text that is no such call.
    """
    text = str(text).strip()
    name, bracket, _ = text.partition("(")
    name = name.strip()
    if name not in registry:
        raise unknown(path, name, registry)
    legal = options_of(registry[name])
    given = _keywords(text, path) if bracket else {}
    for option, value in given.items():
        if option not in legal:
            if not legal:
                raise UserError(f"{path}: {name!r} has no options, got {shown(option)}")
            raise unknown(f"{path}: option of {name!r}", option, legal)
        if not _same_kind(value, legal[option]):
            raise UserError(
                f"{path}: {name}({option}=...): needs a value like {legal[option]!r}, got "
                f"{shown(value)}"
            )
    options = tuple((key, _like(given.get(key, d), d)) for key, d in legal.items())
    return Part(name, options, tuple(key for key, default in legal.items() if _is_data(default)))


def _is_data(default: Any) -> bool:
    if isinstance(default, tuple):
        return bool(default) and all(map(_is_data, default))
    return isinstance(default, float)


def expression(text: str) -> ast.expr:
    """What Python reads in `text`, without its warnings ("1if"). Raises SyntaxError and others."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(text, mode="eval").body


def _keywords(text: str, path: str) -> dict[str, Any]:
    malformed = UserError(f"{path}: needs name or name(option=value, ...), got {shown(text)}")
    try:
        call = expression(text)
        if not isinstance(call, ast.Call) or call.args or None in {k.arg for k in call.keywords}:
            raise malformed
        return {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise malformed from error


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= _LARGEST


def _item(default: tuple) -> Any:
    """What the items of a tuple are like; an empty default is one of whole numbers."""
    return default[0] if default else 0


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        items = value if isinstance(value, (tuple, list)) else (value,)
        return all(_same_kind(item, _item(default)) for item in items)
    if isinstance(default, float):
        return _is_finite_number(value)
    return type(value) is type(default)


def _like(value: Any, default: Any) -> Any:
    """`value` in the type of `default`: 1 for a float is 1.0, (1,) for a tuple stays one."""
    if isinstance(default, tuple):
        items = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(_like(item, _item(default)) for item in items)
    return float(value) if isinstance(default, float) else value


def split(text: str) -> list[str]:
    """The items of a comma-separated list; commas inside brackets do not count."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items if item.strip()]
