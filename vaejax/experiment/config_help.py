"""What a config's keys are, from the dataclasses: type, range, meaning, value, origin."""

import dataclasses
from collections.abc import Collection
from typing import Any

from vaejax import parts, schema
from vaejax.config import Config
from vaejax.errors import UserError, nearest, shown
from vaejax.parts import Part

_LARGE = 10**6


def lines(config: Any, *, file: str | None, given: Collection[str], word: str = "") -> list[str]:
    """Three lines for each key whose name or meaning holds `word`, under its section's title.

    Args:
      config: a config of any kind, with its overrides in place.
      file: the config file it comes from.
      given: dotted paths that the command line set.
      word: in any case; empty: all keys.

    Raises:
      UserError: no key has it.
    """
    found, last = [], None
    titles = _titles(config)
    for path, value, item in schema.leaves(config):
        if word.lower() not in f"{path} {item.metadata['doc']}".lower():
            continue
        section = path.rpartition(".")[0]
        if section != last:
            found += ["", f"{section or 'config'}: {titles[section]}"]
            last = section
        found += [
            f"  {path} = {text(value)}  ({origin(config, path, file=file, given=given)})",
            f"      {item.metadata['doc']}",
            f"      {legal(item)}",
        ]
    if not found:
        names = [name for path, *_ in schema.leaves(config) for name in path.split(".")]
        raise UserError(
            f"--help_config: no key has {shown(word)} in its name or meaning{nearest(word, names)}"
        )
    return found[1:]


def origin(config: Any, path: str, *, file: str | None, given: Collection[str]) -> str:
    """Where a value was set: a file that sets the default is not told from one that does not."""
    if path in given:
        return "command line"
    values = {leaf: value for leaf, value, _ in schema.leaves(config)}
    defaults = {leaf: value for leaf, value, _ in schema.leaves(type(config)())}
    return "default" if file is None or values[path] == defaults[path] else file


def text(value: Any) -> str:
    """A value as a command line takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and isinstance(value[0], Part):
        return ", ".join(map(str, value))
    return str(value)


def legal(item: dataclasses.Field) -> str:
    """The type of a field with its range, or with the names that it may hold."""
    metadata = item.metadata
    low, high, below = (metadata.get(name) for name in ("low", "high", "below"))
    limits = [f"from {low:g}"] if low is not None else []
    limits += [f"to {high:g}"] if high is not None and high < _LARGE else []
    limits += [f"below {below:g}"] if below is not None else []
    described = ", ".join([schema.describe(item.type), " ".join(limits)] if limits else [])
    described = described or schema.describe(item.type)
    registry = metadata.get("parts")
    if registry is None:
        return described
    known = [str(parts.parse(name, registry, path=name)) for name in registry]
    return f"{described}: {', '.join(known)}"


def summary(config: Config) -> list[str]:
    """The whole config, one line for each section."""
    sections: dict[str, list[str]] = {}
    for path, value, _ in schema.leaves(config):
        section, _, name = path.rpartition(".")
        sections.setdefault(section or "config", []).append(f"{name}={text(value)}")
    return [f"{section}: {'; '.join(values)}" for section, values in sections.items()]


def _titles(config: Any) -> dict[str, str]:
    """The first line of each section's docstring, by dotted path."""
    nodes, found = [("", config)], {}
    for path, node in nodes:
        found[path] = (type(node).__doc__ or "").split("\n")[0]
        for item in dataclasses.fields(node):
            value = getattr(node, item.name)
            if dataclasses.is_dataclass(value) and not isinstance(value, Part):
                nodes.append((f"{path}.{item.name}".lstrip("."), value))
    return found
