"""What a sweep is: lists of overrides, the members they name, and their results as tables.

A sweep file's `get_sweep()` returns a list of override dicts, `{"dotted.path": value}`, made
by the helpers here. The key "name" is reserved: it is what a member is called.
"""

import builtins
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax import config as config_lib
from vaejax import python_files
from vaejax.config import Config
from vaejax.errors import UserError, counted, shown

Overrides = dict[str, Any]
NAME = "name"
_LEGAL_NAME = re.compile(r"[A-Za-z0-9][\w.=,+-]{0,150}")
_SHARED = ("dataset", "evaluation")
_MOST_SEEDS = 100_000
_RESERVED = ("sweep.json", "sweep.csv", "groups.json", "failed.json", "search.json")


class Member(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: its folder in the sweep's workdir.
      overrides: what it changes in the config, without "name".
      config: the whole config.
    """

    name: str
    overrides: Overrides
    config: Config


def values(path: str, options: Iterable[Any]) -> list[Overrides]:
    """One override of the key `path` for each of `options`."""
    return [{path: option} for option in options]


def log_uniform(path: str, low: float, high: float, *, n: int, seed: int) -> list[Overrides]:
    """`n` draws of the key `path`, exp(Uniform(log low, log high)), rounded to 3 digits.

    Raises:
      UserError: the range is not 0 < low < high.
    """
    if not 0 < low < high < math.inf:
        raise UserError(f"--sweep: log_uniform({path!r}): needs 0 < low < high, got {low}, {high}")
    draws = np.random.default_rng(seed).uniform(math.log(low), math.log(high), n)
    return values(path, [float(f"{math.exp(draw):.3g}") for draw in draws])


def chain(*parts: Sequence[Overrides]) -> list[Overrides]:
    """All of `parts`, one after another."""
    return [item for part in parts for item in part]


def product(*parts: Sequence[Overrides]) -> list[Overrides]:
    """Every combination of one item from each part, the last part varying fastest."""
    combined: list[Overrides] = [{}]
    for part in parts:
        combined = [_merge(left, right) for left in combined for right in part]
    return combined


def zip(*parts: Sequence[Overrides]) -> list[Overrides]:
    """The first items of all parts merged, then the second ones, and so on.

    Raises:
      UserError: the parts have different lengths.
    """
    lengths = [len(part) for part in parts]
    if len({*lengths}) > 1:
        raise UserError(f"--sweep: zip needs parts of one length, got {lengths}")
    merged = []
    for items in builtins.zip(*parts, strict=True):
        together: Overrides = {}
        for item in items:
            together = _merge(together, item)
        merged.append(together)
    return merged


def with_seeds(items: Sequence[Overrides], count: int) -> list[Overrides]:
    """Each item `count` times, with seed 0, 1, ...

    Raises:
      UserError: count is below 1, or an item sets the seed itself.
    """
    if not 1 <= count <= _MOST_SEEDS:
        raise UserError(f"--seeds: must be in 1..{_MOST_SEEDS:,}, got {shown(count)}")
    return product(items, values("seed", range(count)))


def _merge(left: Overrides, right: Overrides) -> Overrides:
    twice = ({*left} & {*right}) - {NAME}
    if twice:
        raise UserError(f"--sweep: {', '.join(sorted(twice))}: set twice in one member")
    merged = {**left, **right}
    if left and (NAME in left or NAME in right):
        merged[NAME] = f"{label(left)},{label(right)}"
    return merged


def label(overrides: Overrides) -> str:
    """The name of a member: its "name", else "key=value" of its overrides, else "base"."""
    if NAME in overrides:
        return str(overrides[NAME])
    last = [path.rpartition(".")[2] for path in overrides]
    parts = [
        f"{short if last.count(short) == 1 else path}={_text(value)}"
        for short, (path, value) in builtins.zip(last, overrides.items(), strict=True)
    ]
    return ",".join(parts) or "base"


def _text(value: Any) -> str:
    """A value as part of a folder's name: renyi(alpha=0.5) is renyi-alpha=0.5."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(_text, value))
    text = shown(value) if isinstance(value, int) else str(value)
    return re.sub(r"[^\w.=,+-]", "", re.sub(r"[(:/]", "-", text))


def load(path_text: str) -> list[Overrides]:
    """What `get_sweep()` of the file returns.

    Raises:
      UserError: no such file, a file that does not run, or not a list of dicts.
    """
    other = ("get_space", "a space is searched: add --search=optuna or --search=random")
    found = python_files.call(path_text, "get_sweep", flag="--sweep", unlike=other)
    return checked(found, path_text)


def checked(items: Any, source: str) -> list[Overrides]:
    """`items`, which came from the file `source`. Raises UserError where it is no list of dicts."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"--sweep: {source}: get_sweep must return a list of dicts of overrides")
    strange = [key for item in items for key in item if not isinstance(key, str)]
    if strange:
        got = shown(strange[0])
        raise UserError(f"--sweep: {source}: keys are dotted paths (text), got {got}")
    for name in (item[NAME] for item in items if NAME in item):
        if not isinstance(name, str):
            raise UserError(f"--sweep: {source}: a name is text, got {shown(name)}")
    return items


def members(config: Config, items: Sequence[Overrides]) -> list[Member]:
    """The members that `items` make of `config`.

    Raises:
      UserError: naming every problem of every member: unknown keys, bad values, names that
        are twice there or no folder names, members that cannot be compared or are one run.
    """
    if not items:
        raise UserError("--sweep: is empty; get_sweep must return at least one override dict")
    found, problems = [], []
    for item in items:
        name, overrides = label(item), {k: v for k, v in item.items() if k != NAME}
        wrong = _problems(config, name, overrides)
        if not wrong:
            try:
                found.append(Member(name, overrides, config_lib.override_all(config, overrides)))
            except UserError as error:
                wrong = [str(error)]
        problems += [f"member {shown(name)}: {text}" for text in wrong]
    problems += _clashes([label(item) for item in items], found)
    if problems:
        raise UserError(f"--sweep: {counted(problems)}; nothing was started")
    return found


def _problems(config: Config, name: str, overrides: Overrides) -> list[str]:
    wrong = []
    if not _LEGAL_NAME.fullmatch(name):
        wrong.append("a name needs letters, digits and . = , + - _ only, at most 151 of them")
    if name in _RESERVED:
        wrong.append("this name is that of a file of the sweep; choose another")
    for path, value in overrides.items():
        if path.partition(".")[0] in _SHARED:
            wrong.append(
                f"config.{path}: must be the same for all members, or they cannot be "
                f"ranked; launch one sweep for each value"
            )
            continue
        try:
            config_lib.override(config, path, value)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def _clashes(names: list[str], found: list[Member]) -> list[str]:
    problems = [
        f"two members are called {shown(name)}"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    folded: dict[str, str] = {}
    for name in dict.fromkeys(names):
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            problems.append(
                f"members {shown(other)} and {shown(name)} differ in capital letters alone, and "
                f"some file systems would give them one folder"
            )
    seen: dict[str, str] = {}
    for member in found:
        text = json.dumps(config_lib.identity(member.config), sort_keys=True)
        if text in seen and seen[text] != member.name:
            problems.append(
                f"members {shown(seen[text])} and {shown(member.name)} are the same run: they "
                f"differ in nothing that changes its parameters"
            )
        seen.setdefault(text, member.name)
    return problems


def groups(found: Sequence[Member]) -> list[list[Member]]:
    """Members by program, in the order of their first ones: those with the same static config."""
    by_key: dict[Any, list[Member]] = {}
    for member in found:
        by_key.setdefault(jax.tree.structure(member.config), []).append(member)
    return list(by_key.values())
