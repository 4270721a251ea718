"""Split texts as TFDS has them: "train", "train[:1000]", "train[80%:]", "train+test"."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vaejax.errors import UserError, unknown

_PART = re.compile(r"\s*([\w\-]+)\s*(?:\[([^:\[\]]*):([^:\[\]]*)\])?\s*")
_BOUND = re.compile(r"([+-]?[\d_]+)(%?)")


class Slice(NamedTuple):
    """Examples [start, stop) of the split `name`."""

    name: str
    start: int
    stop: int


def parse(text: str, sizes: Mapping[str, int], *, where: str) -> list[Slice]:
    """The pieces that `text` names, in their order.

    Args:
      text: one or more `name` or `name[from:to]`, joined by "+"; from and to are whole
        numbers or percents, negative ones count from the end.
      sizes: examples of each split there is.
      where: what the error begins with.

    Raises:
      UserError: unknown split, or a text that is no such thing.
    """
    return [_parse_part(part, text, sizes, where) for part in text.split("+")]


def _parse_part(part: str, text: str, sizes: Mapping[str, int], where: str) -> Slice:
    name = re.match(r"\s*([^\[]*)", part).group(1).strip()
    if name not in sizes:
        raise unknown(where, name, sizes)
    match = _PART.fullmatch(part)
    bounds = [_bound(item, sizes[name]) for item in match.groups()[1:]] if match else [-1]
    if -1 in bounds:
        raise UserError(
            f"{where}: needs a split or a slice like {name}[:80%], {name}[1000:] or "
            f"{name}[-100:], got {text!r}"
        )
    start, stop = bounds
    stop = sizes[name] if stop is None else stop
    return Slice(name, min(start or 0, sizes[name]), max(start or 0, min(stop, sizes[name])))


def _bound(text: str | None, size: int) -> int | None:
    """A bound as a position >= 0, None where it is left out, -1 where it is none."""
    if text is None or not text.strip():
        return None
    match = _BOUND.fullmatch(text.strip())
    if match is None or not match.group(1).strip("+-_"):
        return -1
    number = int(match.group(1).strip("_"))
    if match.group(2):
        number = round(number / 100 * size)  # TFDS rounds to the closest, too
    return max(0, size + number) if number < 0 else number


def overlap(first: Iterable[Slice], second: Iterable[Slice]) -> int:
    """How many examples two lists of slices have in common."""
    return sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for a in first
        for b in second
        if a.name == b.name
    )
