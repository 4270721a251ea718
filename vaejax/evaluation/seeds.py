"""Runs together that differ in their training seed alone: the one place that says so.

What a run is, apart from its seed, is a nested dict: its whole config, or the overrides of a
member of a sweep.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vaejax import schema

SEED = "seed"
_SEED_IN_NAME = re.compile(r"(^|,)seed=[+-]?\d+(?=,|$)")


class Trained(NamedTuple):
    """One run, or member of a sweep.

    Attributes:
      name: what it is called; "seed=3" between commas is its seed.
      values: what defines it, seed included: nested dicts, or dotted paths.
    """

    name: str
    values: Mapping[str, Any]


class Group(NamedTuple):
    """Runs of one setting.

    Attributes:
      name: of the setting, unlike that of any other group.
      indices: where its runs stand in the sequence that was grouped.
    """

    name: str
    indices: list[int]


def key(values: Mapping[str, Any]) -> str:
    """What runs of one setting share: all of `values` but the seed, as text."""
    return json.dumps(_flat(values), sort_keys=True, default=str)


def name_without_seed(name: str) -> str:
    """The name of a run without its seed, "" where nothing is left; folders above it stay."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{_SEED_IN_NAME.sub('', last).strip(',')}".rstrip("/")


def by_seed(runs: Sequence[Trained], *, nameless: str | None = None) -> list[Group]:
    """Groups of runs that differ in their seed alone, in order of first appearance.

    A group is called what its runs are called without their seeds; where they disagree, or
    nothing is left (and `nameless` is not given), after its first run. Groups of one name
    get the values in which they differ: "a [beta=0.5]".
    """
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(key(run.values), []).append(index)
    indices = list(groups.values())
    names = [_name([runs[i] for i in same], nameless) for same in indices]
    distinct = _distinct(names, [_flat(runs[same[0]].values) for same in indices])
    return [Group(name, same) for name, same in zip(distinct, indices, strict=True)]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.flatten(dict(values)).items() if k != SEED}


def _name(runs: Sequence[Trained], nameless: str | None) -> str:
    names = {name_without_seed(run.name) or nameless for run in runs}
    if len(names) == 1 and (name := names.pop()) is not None:
        return name if len(runs) > 1 or nameless is not None else runs[0].name
    return f"{runs[0].name} (+{len(runs) - 1})" if len(runs) > 1 else runs[0].name


def _distinct(names: Sequence[str], values: Sequence[Mapping[str, Any]]) -> list[str]:
    """`names`, the equal ones with the values (flat dicts) in which they differ added."""
    found: list[str] = []
    for name, own in zip(names, values, strict=True):
        alike = [other for n, other in zip(names, values, strict=True) if n == name]
        if len(alike) > 1:
            name = f"{name} [{_difference(own, alike)}]"
        plain, count = name, 2
        while name in found or (name != plain and name in names):
            name, count = f"{plain} ({count})", count + 1
        found.append(name)
    return found


def _difference(own: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    paths = dict.fromkeys(path for values in alike for path in values)
    missing = object()
    differ = [p for p in paths if len({repr(v.get(p, missing)) for v in alike}) > 1]
    last = [path.rpartition(".")[2] for path in differ]
    return ",".join(
        f"{short if last.count(short) == 1 else path}={own.get(path, 'default')}"
        for short, path in zip(last, differ, strict=True)
    )


def repeated_seed(runs: Sequence[Trained]) -> tuple[str, str, Any] | None:
    """Two runs of one setting that have one seed, by name, and that seed; None without such."""
    seen: dict[str, str] = {}
    for run in runs:
        seed = run.values.get(SEED)
        both = json.dumps([key(run.values), seed], default=str)
        if both in seen:
            return seen[both], run.name, seed
        seen[both] = run.name
    return None


def count_text(finished: int, failed: int) -> str:
    """How many seeds a row of a table is the mean of: "3", or "2 of 3"."""
    return f"{finished} of {finished + failed}" if failed else str(finished)
