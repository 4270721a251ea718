"""What a search may choose: a space of numbers that one compiled program serves.

A file's `get_space()` returns `{"dotted.path": Uniform(...) | Choice(...)}`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vaejax import python_files
from vaejax.config import Config
from vaejax.errors import UserError, counted, shown
from vaejax.evaluation import seeds
from vaejax.sweeps import members as sweeps


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number in [low, high]: uniform, or uniform in its logarithm where `log` says so."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of `values`: numbers, or texts such as "renyi(alpha=0.5)"."""

    values: tuple[Any, ...]


Dimension = Uniform | Choice
Space = Mapping[str, Dimension]
_KINDS = "needs sweeps.spaces.Uniform(low, high) or Choice(values)"


def load(path_text: str) -> Space:
    """What `get_space()` of the file returns; `check` checks it against a config.

    Raises:
      UserError: no such file, one that does not run, or one with `get_sweep`.
    """
    other = ("get_sweep", "a list of members is no space: leave --search out")
    return python_files.call(path_text, "get_space", flag="--sweep", unlike=other)


def check(config: Config, space: Any) -> None:
    """Checks that every trial of `space` would be a legal run of the same program.

    Raises:
      UserError: naming every problem: no space, unknown keys, keys that change the program,
        ranges that are empty, or ends of them that the config refuses.
    """
    if not isinstance(space, dict) or not space:
        raise UserError("--sweep: get_space must return a dict of at least one path and range")
    problems = []
    for path, dimension in space.items():
        try:
            _check_dimension(config, path, dimension)
        except UserError as error:
            text = str(error).removeprefix("--sweep: ").removesuffix("; nothing was started")
            problems.append(f"space of {shown(path)}: {text}")
    if not config.dataset.has_validation:
        problems.append(
            "config.dataset.num_validation: trials are chosen on validation images, needs at "
            "least 1, got 0"
        )
    if problems:
        raise UserError(f"--sweep: {counted(problems)}; nothing was started")


def _check_dimension(config: Config, path: Any, dimension: Any) -> None:
    if not isinstance(path, str):
        raise UserError("keys are dotted paths (text)")
    if path == seeds.SEED:
        raise UserError("the luckiest seed is no better setting; --seeds=N takes the mean of N")
    values = _extremes(dimension)
    items = [{sweeps.NAME: f"value-{i}", path: value} for i, value in enumerate(values)]
    sweeps.members(config, items[:1])  # a key that is wrong for one is so for all: said once
    if len(sweeps.groups(sweeps.members(config, items))) > 1:
        raise UserError(
            f"config.{path} changes shapes or code, and a search trains its trials as one "
            f"program; make one search for each value"
        )


def _extremes(dimension: Any) -> tuple[Any, ...]:
    """The ends of a range, or all values of a choice. Raises UserError where it is none."""
    if isinstance(dimension, Choice):
        values = dimension.values
        if not isinstance(values, (tuple, list)) or len(values) < 2:
            raise UserError(f"Choice: needs at least two values, got {shown(values)}")
        if strange := [v for v in values if not isinstance(v, (int, float, str))]:
            raise UserError(f"Choice: a value is a number or text, got {shown(strange[0])}")
        return tuple(values)
    if not isinstance(dimension, Uniform):
        raise UserError(f"{_KINDS}, got {shown(dimension)}")
    low, high = dimension.low, dimension.high
    if not all(_is_number(end) for end in (low, high)) or not low < high:
        raise UserError(f"Uniform: needs numbers low < high, got {shown(low)}, {shown(high)}")
    if not isinstance(dimension.log, bool):
        raise UserError(f"Uniform: log is true or false, got {shown(dimension.log)}")
    if dimension.log and low <= 0:
        raise UserError(f"Uniform: log=True needs 0 < low, got {shown(low)}")
    return float(low), float(high)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300


def plain(space: Space) -> dict[str, Any]:
    """The space as JSON holds it."""
    return {
        path: {"kind": type(dimension).__name__, **_fields(dimension)}
        for path, dimension in space.items()
    }


def _fields(dimension: Dimension) -> dict[str, Any]:
    if isinstance(dimension, Choice):
        return {"values": list(dimension.values)}
    return {"low": float(dimension.low), "high": float(dimension.high), "log": dimension.log}


def rounded(space: Space, params: Mapping[str, float]) -> sweeps.Overrides:
    """Proposed numbers as a config has them: to 4 digits, or 8 where the range is narrow, inside
    their range; a choice, which is proposed by its index, as its value.
    """
    found = {}
    for path, dimension in space.items():
        value = params[path]
        if isinstance(dimension, Choice):
            found[path] = dimension.values[int(value)]
            continue
        low, high = float(dimension.low), float(dimension.high)
        digits = 4 if high - low > 0.1 * max(abs(low), abs(high)) else 8
        found[path] = min(max(float(f"{value:.{digits}g}"), low), high)
    return found


def holds(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether `params` could have been proposed."""
    return {*space} == {*params} and all(_is_of(d, params[path]) for path, d in space.items())


def _is_of(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    return _is_number(value) and dimension.low <= value <= dimension.high
