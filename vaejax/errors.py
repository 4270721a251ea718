"""The one exception a user should ever see, and the sentences it is made of."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

_MOST_LISTED, _FEW = 30, 8
_LONGEST = 3000  # characters of problems in one message


class UserError(Exception):
    """A mistake the reader can mend: scripts print it on one line and exit with 2."""


def shown(value: Any) -> str:
    """What came instead, as a message holds it: its `repr` on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # Python writes no number of more than 4,300 digits
        return "a huge number"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge number"
    return text if len(text) <= 200 else f"{text[:200]}..."


def nearest(name: str, legal: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest legal name, or nothing."""
    name = name if isinstance(name, str) else shown(name)
    close = difflib.get_close_matches(name[:200], list(legal), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(where: str, got: Any, legal: Iterable[str]) -> UserError:
    """An error for a name outside a closed list: where, what came, the nearest, the list.

    Of a list that is too long to read, its nearest names.
    """
    legal = list(legal)
    listed = ", ".join(legal)
    if len(legal) > _MOST_LISTED:
        name = got if isinstance(got, str) else shown(got)
        close = difflib.get_close_matches(name[:200], legal, n=_FEW, cutoff=0.0)
        listed = f"{', '.join(close)} and {len(legal) - len(close)} more"
    return UserError(f"{where}: unknown {shown(got)}{nearest(got, legal)} (legal: {listed})")


def counted(problems: Sequence[str]) -> str:
    """ "2 problems: a; b": all of them, or as many as one can read and how many more there are."""
    told, length = [], 0
    for problem in problems:
        length += len(problem)
        if told and length > _LONGEST:
            break
        told.append(problem)
    if len(told) < len(problems):
        told.append(f"and {len(problems) - len(told)} more")
    number = f"{len(problems)} problems: " if len(problems) > 1 else ""
    return f"{number}{'; '.join(told)}"


class Stopped(Exception):
    """A signal ended the work, which was saved: scripts exit with 128 + its number.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.number = number
