"""What one call of evaluate asks for: read, checked, and resolved against the run's config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vaejax import schema
from vaejax.config import Config, Evaluation
from vaejax.errors import UserError
from vaejax.evaluation import estimators
from vaejax.evaluation import rates as rates_lib
from vaejax.evidence import budgets


@dataclasses.dataclass(frozen=True)
class Request:
    """What a caller asks for.

    Attributes:
      split: "train", "validation" or "test".
      estimators: of log p(x), names of `vaejax.evidence.estimators`.
      gaps: whether log p(x) - ELBO is split into its two gaps.
      rates: whether the rate is split into its parts.
      overrides: of budgets, "evaluation.num_samples" to value; text is read as a command
        line's, None is a key that stood alone there.
      num_samples: short for evaluation.num_samples.
      num_examples: short for evidence.num_examples.
    """

    split: str = "test"
    estimators: tuple[str, ...] = ()
    gaps: bool = False
    rates: bool = False
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_samples: int | None = None
    num_examples: int | None = None

    @property
    def wants_evidence(self) -> bool:
        """Whether anything beyond the bounds is asked for."""
        return bool(self.estimators) or self.gaps


@dataclasses.dataclass(frozen=True)
class Settings:
    """The budgets of one call.

    Attributes:
      evaluation: K, seed and memory of the bounds.
      evidence: budgets of the estimators of log p(x).
      rates: budget of the parts of the rate.
    """

    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    evidence: budgets.Evidence = dataclasses.field(default_factory=budgets.Evidence)
    rates: rates_lib.Config = dataclasses.field(default_factory=rates_lib.Config)


def resolve(config: Config, request: Request) -> Settings:
    """The budgets of `request` for the run of `config`.

    Raises:
      UserError: an unknown estimator, or an override that is misspelt, of a wrong value,
        belongs to the run, or would change nothing in this call.
    """
    estimators.check_names(request.estimators)
    settings = Settings(evaluation=config.evaluation)
    overrides = dict(request.overrides)
    for flag, path in (("num_samples", "evaluation"), ("num_examples", "evidence")):
        value = getattr(request, flag)
        if value is None:
            continue
        if f"{path}.{flag}" in overrides:
            raise UserError(f"--{flag} and --config.{path}.{flag} say the same; give one of them")
        if flag == "num_examples" and not request.wants_evidence:
            raise UserError("--num_examples: has no effect without --estimators or --gaps")
        overrides[f"{path}.{flag}"] = value
    for path, value in overrides.items():
        _check_place(path, config, settings)
        if value is None:
            raise UserError(f"--config.{path}: needs a value: --config.{path}=value")
        if isinstance(value, str):
            value = schema.from_text(settings, path, value)
        settings = schema.replace(settings, path, value)
        _check_effect(path, request)
    return settings


def _check_place(path: str, config: Config, settings: Settings) -> None:
    ours = {leaf for leaf, _, _ in schema.leaves(settings)}
    theirs = {leaf for leaf, _, _ in schema.leaves(config)} - ours
    if path in theirs:
        raise UserError(
            f"--config.{path}: belongs to the run, which is trained; only evaluation.*, "
            f"evidence.* and rates.* can be set here"
        )


def _check_effect(path: str, request: Request) -> None:
    """Refuses a budget of something that this call does not do."""
    section, *rest = path.split(".")
    if section == "rates" and not request.rates:
        raise UserError(f"--config.{path}: has no effect without --rates")
    if section != "evidence":
        return
    if not request.wants_evidence:
        raise UserError(f"--config.{path}: has no effect without --estimators or --gaps")
    if len(rest) < 2:
        return
    asked = {*request.estimators, *(["gaps"] if request.gaps else [])}
    if rest[0] not in asked:
        needed = "--gaps" if rest[0] == "gaps" else f"--estimators={rest[0]}"
        raise UserError(f"--config.{path}: has no effect without {needed}")


def num_examples(settings: Settings, request: Request, available: int) -> int:
    """How many examples estimators use, of the `available` ones of the split.

    Raises:
      UserError: more were asked for by name than there are.
    """
    count = settings.evidence.num_examples
    asked = request.num_examples is not None or "evidence.num_examples" in request.overrides
    if (asked and count > available) or available < 2:
        flag = "--num_examples" if request.num_examples is not None else "evidence.num_examples"
        raise UserError(f"{flag}: must be in 2..{available}, the split's size, got {count}")
    return min(count, available)
