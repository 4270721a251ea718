"""The flags of a search: --search, --trials, --batch, --rungs, --search_seed."""

import functools
from collections.abc import Callable, Mapping

from absl import flags
from rich.console import Console

from vaejax.errors import UserError, shown, unknown
from vaejax.storage import logging
from vaejax.sweeps import launch, samplers, search, spaces
from vaejax.sweeps import members as sweeps
from vaejax.sweeps.results import Result
from vaejax.sweeps.search import Request

_RANGES = {"trials": (1, 100_000), "batch": (1, 10_000), "rungs": (1, 10)}
_RANGES |= {"search_seed": (0, 2**31 - 1), "seeds": (1, 100_000)}
_FIELDS = {"search_seed": "seed"}


def define_flags() -> None:
    """Defines them."""
    flags.DEFINE_string("search", None, "optuna or random: search the space of --sweep")
    flags.DEFINE_integer("trials", None, "search: proposals in all")
    flags.DEFINE_integer("batch", None, "search: trials trained together; default: 8")
    flags.DEFINE_integer(
        "rungs", None, "search: R > 1 stops two of three trials at each of R - 1 earlier epochs"
    )
    flags.DEFINE_integer("search_seed", None, "search: seed of the proposals; default: 0")


def runner(path_text: str) -> Callable[..., list[Result]]:
    """`launch.sweep` of the list in the file at `path_text`, or `search.search` of its space.

    What is left to give is the config, `task` and how to launch. Raises UserError.
    """
    count = flags.FLAGS.seeds
    asked = request(flags.FLAGS.search, {flag: flags.FLAGS[flag].value for flag in _RANGES})
    if asked is not None:
        return functools.partial(search.search, space=spaces.load(path_text), request=asked)
    items = sweeps.load(path_text)
    items = items if count is None else sweeps.with_seeds(items, count)
    return functools.partial(launch.sweep, items=items)


def report_failures(line: str | None, console: Console) -> None:
    """Says which members failed; UserError where it is a sweep: in a search some will diverge."""
    if line and flags.FLAGS.search is None:
        raise UserError(line)
    if line:
        logging.warn(console, line)


def request(name: str | None, given: Mapping[str, int | None]) -> Request | None:
    """The search called `name` with what was `given` by flag, None where it is a sweep.

    Raises:
      UserError: an unknown name, a number out of range, none of trials, or one without a search.
    """
    given = {flag: value for flag, value in given.items() if value is not None}
    if name is None:
        alone = [flag for flag in given if flag != "seeds"]
        if alone:
            raise UserError(f"--{alone[0]}: has an effect with --search alone")
        return None
    if name not in samplers.SAMPLERS:
        raise unknown("--search", name, samplers.SAMPLERS)
    if "trials" not in given:
        raise UserError("--trials: a search needs a number of trials, such as --trials=64")
    for flag, value in given.items():
        low, high = _RANGES[flag]
        if not low <= value <= high:
            raise UserError(f"--{flag}: must be in {low}..{high:,}, got {shown(value)}")
    fields = {_FIELDS.get(flag, flag): value for flag, value in given.items()}
    return Request(name, **fields)
