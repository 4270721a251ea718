"""What the gradient laboratory is asked for, and what it refuses."""

import itertools
from collections.abc import Collection
from typing import NamedTuple

from vaejax import parts
from vaejax.errors import UserError, shown
from vaejax.laboratory import draws
from vaejax.laboratory.draws import Pair
from vaejax.objectives import bounds, gradients, requirements
from vaejax.parts import Part
from vaejax.types import Model

DEFAULT_PAIRS = (
    "elbo:pathwise,elbo:stl,iwae:pathwise,iwae:doubly_reparameterized,iwae:stl,"
    "iwae:wake_phi,iwae:doubly_reparameterized_wake_phi"
)
DISCRETE_PAIRS = "elbo:reinforce,iwae:reinforce,iwae:vimco,iwae:ovis,iwae:wake_phi,iwae:sleep_phi"
_USED_SECTIONS = ("dataset", "model")
_USED_KEYS = ("seed", "training.start_from")


class Settings(NamedTuple):
    """What is measured.

    Attributes:
      pairs: bounds with estimators; None: the usual ones for the model's latents.
      num_samples: every K.
      num_draws: gradients drawn of each pair and K.
      num_examples: first examples of the split, in one gradient.
      seed: of the draws.
      split: of the data.
      only_possible: whether pairs that the model does not allow are left out, not refused.
    """

    pairs: tuple[Pair, ...] | None
    num_samples: tuple[int, ...]
    num_draws: int = 400
    num_examples: int = 8
    seed: int = 0
    split: str = "test"
    only_possible: bool = False


def parse_sizes(texts: Collection[str]) -> tuple[int, ...]:
    """Every K of --num_samples, once.

    Raises:
      UserError: text that is no whole number.
    """
    try:
        return tuple(dict.fromkeys(map(int, texts)))
    except ValueError as error:
        raise UserError(f"--num_samples: needs whole numbers, got {shown(texts)}") from error


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """The pairs of "bound:estimator,...", or every pair of the registries for "all".

    Raises:
      UserError: no such bound, option or estimator, or a pair that cannot be.
    """
    if text.strip() == "all":
        both = itertools.product(bounds.BOUNDS, gradients.GRADIENTS)
        every = [Pair(bounds.parse(bound), gradients.parse(name)) for bound, name in both]
        return tuple(pair for pair in every if not _refusals(pair))
    found = []
    for item in parts.split(text):
        bound, colon, name = item.rpartition(":")
        if not colon:
            raise UserError(f"--estimators: needs bound:estimator, got {item!r}")
        part = bounds.parse(bound, path="--estimators")
        pair = Pair(part, gradients.parse(name, path="--estimators"))
        if _refusals(pair):
            raise UserError(f"--estimators: {item}: {_refusals(pair)[0]}")
        found.append(pair)
    if not found:
        raise UserError("--estimators: needs at least one bound:estimator, got none")
    return tuple(dict.fromkeys(found))


def _refusals(pair: Pair) -> list[str]:
    """What cannot be at any K."""
    return gradients.refusals(pair.estimator, pair.bound, None, num_samples=2**31)


def resolved(settings: Settings, model: Model, *, trained: Part | None) -> Settings:
    """`settings` with its pairs, checked before anything is compiled. Raises UserError.

    `trained` is the estimator with which the parameters were trained: it alone has a baseline.
    """
    pairs = settings.pairs
    if pairs is None:
        pairs = parse_pairs(DISCRETE_PAIRS if model.support.is_discrete else DEFAULT_PAIRS)
    if settings.only_possible:
        pairs = tuple(p for p in pairs if not _problems(p, model, trained))
    settings = settings._replace(pairs=pairs)
    _check(settings, model, trained)
    return settings


def _problems(pair: Pair, model: Model, trained: Part | None) -> list[str]:
    """What cannot be with this model, at these parameters."""
    found = requirements.problems(pair.estimator, model)
    if pair.record.learns_baseline and pair.estimator != trained:
        found.append(
            f"its baseline is learned along with the model, and these parameters have none; "
            f"measure a run that was trained with objective.gradient={pair.estimator}"
        )
    return found


def _check(settings: Settings, model: Model, trained: Part | None) -> None:
    """Every pair at every K."""
    low = draws.NUM_BLOCKS * 2
    _check_number("--num_draws", settings.num_draws, low)
    if settings.num_draws % draws.NUM_BLOCKS:
        several = f"a multiple of {draws.NUM_BLOCKS}"
        raise UserError(f"--num_draws: must be {several}, got {settings.num_draws}")
    if not settings.num_samples:
        raise UserError("--num_samples: needs at least one K, got none")
    _check_number("--seed", settings.seed, 0)
    for num_samples in settings.num_samples:
        _check_number("--num_samples", num_samples, 1)
        for pair in settings.pairs:
            for problem in bounds.problems(pair.bound, num_samples=num_samples):
                raise UserError(f"--estimators: at K = {num_samples}: {pair.bound}: {problem}")
    most = max(settings.num_samples)
    for pair in settings.pairs:
        problems = _problems(pair, model, trained)
        problems += gradients.refusals(pair.estimator, pair.bound, None, num_samples=most)
        for problem in problems:
            raise UserError(f"--estimators: {pair.label}: {problem}; or leave it out")


def _check_number(flag: str, value: int, low: int) -> None:
    if not low <= value < 2**31:
        raise UserError(f"{flag}: must be in {low}..{2**31 - 1}, got {shown(value)}")


def check_overrides(paths: Collection[str]) -> None:
    """Refuses overrides of a config that change nothing here. Raises UserError.

    What is measured is the gradient of a bound at given parameters: it depends on data, model,
    seed and start, and neither on the objective nor on the optimiser of the config.
    """
    for path in paths:
        if path.partition(".")[0] not in _USED_SECTIONS and path not in _USED_KEYS:
            raise UserError(
                f"--config.{path}: has no effect on gradients at given parameters; leave it out "
                f"(used: {', '.join([*(f'{name}.*' for name in _USED_SECTIONS), *_USED_KEYS])})"
            )
