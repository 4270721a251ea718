"""Text that names a function and its options, `name` or `name(option=value)`, to a function.

The registry's function is the only description of its options: names and defaults come
from its keyword-only parameters, so that a new function needs no other place.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vaejax.errors import UserError, unknown


def options_of(function: Callable) -> dict[str, Any]:
    """The keyword-only parameters of `function` with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def signature(name: str, function: Callable) -> str:
    """The text that stands for `function` with its defaults."""
    options = [f"{key}={value!r}" for key, value in options_of(function).items()]
    return f"{name}({', '.join(options)})" if options else name


def parse(text: str, registry: Mapping[str, Callable], *, path: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `text`.

    Raises:
      UserError: `path`, unknown names with the nearest one, options that the function does
        not have or of another type than their default, or text that is no such call.
    """
    name, bracket, _ = str(text).partition("(")
    name = name.strip()
    if name not in registry:
        raise unknown(path, name, registry)
    legal = options_of(registry[name])
    keywords = _keywords(str(text), path) if bracket else {}
    for option, value in keywords.items():
        if option not in legal:
            if not legal:
                raise UserError(f"{path}: {name!r} has no options, got {option!r}")
            raise unknown(f"{path}: option of {name!r}", option, legal)
        if not _same_kind(value, legal[option]):
            raise UserError(
                f"{path}: {name}({option}=...): needs a value like {legal[option]!r}, got {value!r}"
            )
    return name, keywords


def _keywords(text: str, path: str) -> dict[str, Any]:
    malformed = UserError(f"{path}: needs name or name(option=value, ...), got {text!r}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or None in {k.arg for k in call.keywords}:
            raise malformed
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise malformed from error


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, (tuple, list)) and all(_same_kind(v, 0.0) for v in value)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def make(text: str, registry: Mapping[str, Callable], *, path: str) -> Callable:
    """The function that `text` names, with its options filled in. Raises UserError."""
    name, options = parse(text, registry, path=path)
    return functools.partial(registry[name], **options) if options else registry[name]


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
