"""The result of an evaluation, typed, and its one way to JSON and back.

NaN stands for "not known" here and is null in JSON.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from vaejax.errors import UserError
from vaejax.evaluation import means
from vaejax.evaluation.inference_gaps import Gaps
from vaejax.evaluation.means import ExampleMean
from vaejax.storage import json_files


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One row of a table: a mean over examples, nats.

    Attributes:
      value: the mean.
      mc_se: its error from finite K, NaN where it is not known.
      data_se: its error from the finite set of examples.
      label: what it is: "lower bound", "upper bound", "exact", ..
      num_examples: N.
      not_finite: how many of the per-example values are infinite or not a number.
      do_not_trust: for estimators of log p(x), the share of examples whose error is not to
        be believed; None for the bounds of the evaluation itself.
      value_bits_per_dim: minus the mean in bits for each of the D numbers of an example, for
        estimates of log p(x) where that is the mass of whole numbers; None elsewhere.
    """

    value: float
    mc_se: float
    data_se: float
    label: str
    num_examples: int
    not_finite: int
    do_not_trust: float | None = None
    value_bits_per_dim: float | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What must agree before two evaluations may be compared, and where they come from.

    Attributes:
      dataset, split, num_examples, binarization, data_sha256: which x.
      num_samples, seed: K, and the seed of the samples.
      model, objective: those parts of the run's config.
      biased_gradient: why the run's gradient was biased, or None.
      checkpoint_step: step of the parameters that were evaluated.
      trained_steps: step at which the run stood; not that of the parameters where the best
        ones by validation, or averages, are kept.
      num_epochs: how many the run was to have.
      finished: whether it was at its end.
      params_sha256: hash of the parameters.
      dtype: the type in which the estimates were computed.
      precision: of the matrix products of the evaluation.
      training_precision: of those of the training.
      versions: of Python and of packages.
      device: what it was computed on.
      values: what the numbers of x are, and what was done to its levels: a density is of other
        values than a mass, and no two of them compare.
      num_dims: D where log p(x) is the log mass of D whole numbers, and bits per dimension are
        given; None elsewhere.
      skipped_steps: how many of the trained steps were skipped, for their gradients were too long
        or not finite; None where the run skips none.
    """

    dataset: str
    split: str
    num_examples: int
    binarization: str
    data_sha256: str
    num_samples: int
    model: dict
    objective: dict
    biased_gradient: str | None
    checkpoint_step: int
    trained_steps: int
    num_epochs: int
    finished: bool
    params_sha256: str
    seed: int
    dtype: str
    precision: str
    training_precision: str
    versions: dict
    device: str
    values: str = "not stated"
    num_dims: int | None = None
    skipped_steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """How far the numbers can be trusted, over all examples of the split.

    Attributes:
      ess_median: median effective sample size of the K weights.
      ess_below_100: share of examples below 100.
      pareto_k_bad: share of examples whose Pareto k-hat is too large for K, or not known.
      do_not_trust: share of examples where either says that the error of L_K is too small.
      active_units: per stochastic layer, units with Var_x(E_q[u]) > 0.01.
      divergent_moves, broken_chains: how many, by estimator.
    """

    ess_median: float
    ess_below_100: float
    pareto_k_bad: float
    do_not_trust: float
    active_units: tuple[int, ...]
    divergent_moves: dict[str, int] = dataclasses.field(default_factory=dict)
    broken_chains: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """Both sides of log p(x) on data simulated by the model, nats.

    Attributes:
      lower, upper: means of the two bounds.
      gap, gap_se, largest_gap: upper - lower: mean, error from its spread over examples, max.
      num_simulated: number of examples.
      valid: every chain finite, and the gap not below zero by more than three errors.
      divergent_moves, broken_chains: of both sides together.
      labels: what the sides are.
      note: what to know of it.
    """

    lower: float
    upper: float
    gap: float
    gap_se: float
    largest_gap: float
    num_simulated: int
    valid: bool
    divergent_moves: int
    broken_chains: int
    labels: dict[str, str]
    note: str


@dataclasses.dataclass(frozen=True)
class EvidenceProtocol:
    """What all estimators of log p(x) of one result share."""

    num_examples: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What estimators of log p(x) add to an evaluation.

    Attributes:
      protocol: the examples and the seed of all of them.
      same_examples: ELBO and L_K of the evaluation on those examples.
      about: by estimator its budget, seconds, what was watched and tuned; "gaps" too.
      arrays_sha256: hash of the bytes of evidence.npz; "" before it is written.
    """

    protocol: EvidenceProtocol
    same_examples: dict[str, Estimate]
    about: dict[str, dict]
    arrays_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
      protocol: how it was made.
      estimates: by name, means over all examples of the split; those of estimators of
        log p(x) over the first ones (their `num_examples`).
      diagnostics: how far to trust them.
      evidence, sandwich, gaps: where they were asked for.
      arrays_sha256: hash of the bytes of evaluation.npz; "" before it is written.
    """

    protocol: Protocol
    estimates: dict[str, Estimate]
    diagnostics: Diagnostics
    evidence: Evidence | None = None
    sandwich: Sandwich | None = None
    gaps: Gaps | None = None
    arrays_sha256: str = ""


def to_json(value: Any) -> Any:
    """A result, or any part of one, as JSON holds it; what is None is left out, except where
    a field must be there.
    """
    if isinstance(value, Evidence):
        fixed = {"protocol": value.protocol, "same_examples": value.same_examples}
        return to_json({**fixed, **value.about, "arrays_sha256": value.arrays_sha256})
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        shown = [item for item in fields if not _is_left_out(item, getattr(value, item.name))]
        return {item.name: to_json(getattr(value, item.name)) for item in shown}
    if isinstance(value, ExampleMean):
        return means.plain(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return means.number(value) if isinstance(value, float) else value


def _is_left_out(item: dataclasses.Field, value: Any) -> bool:
    if item.default is None:
        return value is None
    return item.default_factory is dict and not value


def from_json(value: Any, kind: type = Result) -> Any:
    """The result (a `kind`) that `to_json` wrote.

    Raises:
      UserError: something is missing or of a wrong type; other keys are let through.
    """
    try:
        return _typed(kind, value, "")
    except ValueError as error:
        raise UserError(f"no evaluation of this version: {error}") from error


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`. Raises ValueError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Evidence:
        value = _nested_about(json_files.check(value, dict, where))
    if dataclasses.is_dataclass(kind) or kind is ExampleMean:
        return kind(**_fields(kind, json_files.check(value, dict, where), where))
    if origin in (typing.Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _typed(inner, value, where)
    if origin is dict:
        items = json_files.check(value, dict, where).items()
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in items}
    if origin is tuple:
        items = enumerate(json_files.check(value, list, where))
        return tuple(_typed(arguments[0], item, f"{where}[{i}]") for i, item in items)
    return json_files.check(value, kind, where)


def _fields(kind: Any, value: dict, where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    optional = {
        item.name
        for item in (dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ())
        if not (item.default is item.default_factory is dataclasses.MISSING)
    }
    missing = [name for name in hints if name not in value and name not in optional]
    if missing:
        raise ValueError(f"{where}.{missing[0]} is missing".lstrip("."))
    return {
        name: _typed(hint, value[name], f"{where}.{name}".lstrip("."))
        for name, hint in hints.items()
        if name in value
    }


def _nested_about(value: dict) -> dict:
    fixed = {name: value[name] for name in typing.get_type_hints(Evidence) if name in value}
    return fixed | {"about": {k: v for k, v in value.items() if k not in fixed}}
