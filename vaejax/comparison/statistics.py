"""Differences between evaluated runs that mean something: paired, with errors. Pure functions.

All runs see the same test images, binarised once, and the same random numbers, so what two
models find hard in common cancels in the per-example differences.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vaejax.errors import UserError

PROTOCOL = (
    "dataset",
    "split",
    "num_examples",
    "binarization",
    "data_sha256",
    "num_samples",
    "seed",
    "dtype",
)
_BOUNDS = re.compile(r"elbo|iwae_\d+|log_marginal")
_SEED_IN_NAME = re.compile(r"(^|,)seed=\d+")


class Run(NamedTuple):
    """One evaluated run.

    Attributes:
      name: what it is called in tables; unique.
      config: its config.json.
      result: its evaluation.json.
      values: per-example estimates [N] by name, nats.
      variances: their Monte-Carlo variances [N].
      metrics: rows of metrics.jsonl.
    """

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    values: Mapping[str, Float[np.ndarray, "N"]]
    variances: Mapping[str, Float[np.ndarray, "N"]]
    metrics: Sequence[Mapping[str, Any]]


class Setting(NamedTuple):
    """Runs that differ in their training seed alone."""

    name: str
    runs: list[Run]


class Difference(NamedTuple):
    """How much higher one setting's estimate is than the baseline's, nats.

    Attributes:
      value: mean over seeds and examples.
      data_se: paired error, from the finite set of examples.
      mc_se: error left by finite K, taking the two runs' samples as independent.
      seed_se: error from the finite number of seeds, or None with one seed on a side.
      significant: whether |value| > 2 error, the error being `total_se`.
    """

    value: float
    data_se: float
    mc_se: float | None
    seed_se: float | None

    @property
    def total_se(self) -> float:
        """sqrt(data_se^2 + seed_se^2); data_se holds the Monte-Carlo error already."""
        return math.hypot(self.data_se, self.seed_se or 0.0)

    @property
    def significant(self) -> bool:
        """Whether the difference is larger than two of its errors."""
        return abs(self.value) > 2.0 * self.total_se


def protocol_mismatches(runs: Sequence[Run]) -> list[str]:
    """One sentence for each protocol field in which the runs do not agree with the first."""
    first, found = runs[0].result["protocol"], []
    for field in PROTOCOL:
        for run in runs[1:]:
            ours, theirs = first.get(field), run.result["protocol"].get(field)
            if ours != theirs:
                found.append(f"{field} is {ours!r} in {runs[0].name} and {theirs!r} in {run.name}")
                break
    return found


def check_protocols(runs: Sequence[Run]) -> None:
    """Refuses runs whose differences would mean nothing.

    Raises:
      UserError: naming every protocol field that differs, and between which runs.
    """
    found = protocol_mismatches(runs)
    if found:
        raise UserError(
            f"these runs cannot be compared: {'; '.join(found)}; evaluate them alike, or give "
            f"--force to print them side by side without differences"
        )


def protocol_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs apart by protocol, each group comparable in itself."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        key = repr([run.result["protocol"].get(field) for field in PROTOCOL])
        by_key.setdefault(key, []).append(run)
    return list(by_key.values())


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Runs together that differ in `config.seed` alone, in order of first appearance."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        key = repr(sorted((k, v) for k, v in run.config.items() if k != "seed"))
        by_key.setdefault(key, []).append(run)
    names = [_setting_name(same) for same in by_key.values()]
    return [
        Setting(name if names.count(name) == 1 else same[0].name, same)
        for name, same in zip(names, by_key.values(), strict=True)
    ]


def _setting_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    names = {_SEED_IN_NAME.sub("", run.name).strip(",") for run in runs}
    return (
        names.pop() if len(names) == 1 and names != {""} else f"{runs[0].name} (+{len(runs) - 1})"
    )


def bound_names(runs: Sequence[Run]) -> list[str]:
    """The bounds that all runs have, in the order of the first; L_1 is the ELBO, left out."""
    shared = [n for n in runs[0].result["estimates"] if all(n in run.values for run in runs)]
    return [name for name in shared if _BOUNDS.fullmatch(name) and name != "iwae_1"]


def top_bound(names: Sequence[str]) -> str:
    """The L_k of the largest k."""
    return max((n for n in names if n.startswith("iwae_")), key=lambda n: int(n[5:]))


def seed_mean(setting: Setting, name: str) -> Float[np.ndarray, "N"]:
    """Per-example estimate, averaged over seeds, float64."""
    return np.mean([np.asarray(run.values[name], np.float64) for run in setting.runs], axis=0)


def mean_error(values: Float[np.ndarray, "N"]) -> float:
    """sd / sqrt(N); NaN below two values."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def run_means(setting: Setting, name: str) -> Float[np.ndarray, "S"]:
    """The estimate of each seed, averaged over examples."""
    return np.array([np.mean(run.values[name], dtype=np.float64) for run in setting.runs])


def estimate(setting: Setting, name: str) -> Difference:
    """The estimate itself with its errors (a difference to zero)."""
    values, means = seed_mean(setting, name), run_means(setting, name)
    seed_se = mean_error(means) if len(means) > 1 else None
    return Difference(float(values.mean()), mean_error(values), _mc_error([setting], name), seed_se)


def difference(setting: Setting, baseline: Setting, name: str) -> Difference:
    """`setting` minus `baseline` in the estimate `name`, paired over examples.

    d_i = mean over seeds of v_i - mean over seeds of b_i; value = mean_i d_i, data_se =
    sd(d_i) / sqrt(N), seed_se = sqrt(se_1^2 + se_2^2) with the error over seeds of each side
    (two runs of one seed share no more than their initial noise: seeds are not paired).
    """
    delta = seed_mean(setting, name) - seed_mean(baseline, name)
    return Difference(
        float(delta.mean()),
        mean_error(delta),
        _mc_error([setting, baseline], name),
        _seed_error(setting, baseline, name),
    )


def _seed_error(setting: Setting, baseline: Setting, name: str) -> float | None:
    ours, theirs = run_means(setting, name), run_means(baseline, name)
    if min(len(ours), len(theirs)) < 2:
        return None
    return math.hypot(mean_error(ours), mean_error(theirs))


def _mc_error(parts: Sequence[Setting], name: str) -> float | None:
    """sqrt(sum of variances) / (N S), or None where a run cannot tell its own."""
    total = 0.0
    for setting in parts:
        for run in setting.runs:
            variance = np.asarray(run.variances[name], np.float64)
            total += float(variance.sum()) / (len(variance) * len(setting.runs)) ** 2
    return None if math.isnan(total) else math.sqrt(total)


def gap(setting: Setting, name: str) -> Difference:
    """How far the ELBO lies below the bound `name`, paired over examples of the same runs."""
    per_seed = run_means(setting, name) - run_means(setting, "elbo")
    values = seed_mean(setting, name) - seed_mean(setting, "elbo")
    seed_se = mean_error(per_seed) if len(per_seed) > 1 else None
    return Difference(float(values.mean()), mean_error(values), None, seed_se)


def budget_mismatch(runs: Sequence[Run]) -> str | None:
    """Why the validation bounds of the runs cannot share a figure, or None."""
    for section, key in (
        ("training", "validation_samples"),
        ("dataset", "num_validation"),
        ("dataset", "train_split"),
        ("dataset", "name"),
        ("dataset", "binarization"),
        ("dataset", "binarization_seed"),
    ):
        found = {repr(run.config[section][key]) for run in runs}
        if len(found) > 1:
            return f"config.{section}.{key} differs ({', '.join(sorted(found))})"
    return None


def decoder_evaluations(run: Run, step: int) -> int:
    """Decoder evaluations spent on training up to `step`: steps * batch size * K."""
    per_step = run.config["training"]["batch_size"] * run.config["objective"]["num_samples"]
    return step * per_step


def budget_curve(run: Run) -> dict[str, Float[np.ndarray, "T"]]:
    """Validation L_K against what it cost: {"nats", "decoder_evaluations", "seconds"}."""
    rows = [row for row in run.metrics if "validation/iwae" in row]
    return {
        "nats": np.array([row["validation/iwae"] for row in rows]),
        "decoder_evaluations": np.array([decoder_evaluations(run, row["step"]) for row in rows]),
        "seconds": np.array([row.get("seconds", math.nan) for row in rows]),
    }


def equal_budget(parts: Sequence[Setting], *, cost: str) -> tuple[float, dict[str, float]]:
    """Best validation L_k of each setting within the budget of the cheapest run.

    Args:
      parts: settings; their runs without validation are left out.
      cost: "decoder_evaluations" or "seconds".

    Returns:
      The budget, and the mean over seeds by setting (NaN where nothing was validated in it).
    """
    curves = {s.name: [c for run in s.runs if len((c := budget_curve(run))["nats"])] for s in parts}
    every = [curve for same in curves.values() for curve in same]
    if not every:
        return math.nan, {}
    budget = float(min(np.nanmax(curve[cost]) for curve in every))
    reached = {
        name: [np.max(curve["nats"][curve[cost] <= budget], initial=-math.inf) for curve in same]
        for name, same in curves.items()
    }
    means = {name: float(np.mean(best)) for name, best in reached.items() if best}
    return budget, {name: value if value > -math.inf else math.nan for name, value in means.items()}


def rows(parts: Sequence[Setting], baseline: Setting | None) -> list[dict[str, Any]]:
    """One row per setting and bound: the estimate, its errors, its difference to the baseline."""
    names = bound_names([run for setting in parts for run in setting.runs])
    found = []
    for setting in parts:
        for name in names:
            own = estimate(setting, name)
            row = {"setting": setting.name, "seeds": len(setting.runs), "bound": name}
            row |= _columns("", own)
            if baseline is not None and setting is not baseline:
                delta = difference(setting, baseline, name)
                row |= _columns("difference", delta) | {"significant": delta.significant}
            found.append(row)
    return found


def _columns(prefix: str, item: Difference) -> dict[str, float | None]:
    join = f"{prefix}_" if prefix else ""
    return {
        prefix or "value": item.value,
        f"{join}data_se": item.data_se,
        f"{join}mc_se": item.mc_se,
        f"{join}seed_se": item.seed_se,
    }
