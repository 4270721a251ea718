"""Differences between evaluated runs that mean something: paired, with errors. Pure functions.

All runs see the same test images, binarised once, and the same random numbers, so what two
models find hard in common cancels in the per-example differences.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from vaejax.evaluation import means

LEVEL = 0.05
NOT_FINITE = "not finite"
UNCLEAR = "unclear"
_BOUNDS = re.compile(r"elbo|iwae_\d+|log_marginal")


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


class Estimates(NamedTuple):
    """Per-example estimates [N] by name, nats, and their Monte-Carlo variances (NaN: not known)."""

    values: Mapping[str, Float[np.ndarray, "N"]]
    variances: Mapping[str, Float[np.ndarray, "N"]]


def without_variances(values: Mapping[str, Float[np.ndarray, "N"]]) -> Estimates:
    """Estimates of which no Monte-Carlo variance is known."""
    return Estimates(values, {name: np.full(len(v), np.nan) for name, v in values.items()})


class Setting(NamedTuple):
    """Runs that differ in their training seed alone.

    Attributes:
      name: unlike that of any other setting.
      runs: those that were evaluated, at least one.
      failed: seeds that have no result.
    """

    name: str
    runs: list[Run]
    failed: int = 0

    def measured_by(self, estimates: Callable[[Run], Estimates]) -> "Setting":
        """The same runs with other estimates for their values."""
        return self._replace(runs=[run._replace(**estimates(run)._asdict()) for run in self.runs])


class Difference(NamedTuple):
    """How much higher one setting's estimate is than the baseline's, nats.

    Attributes:
      value: mean over seeds and examples.
      data_se: paired error, from the finite set of examples.
      mc_se: error left by finite K, taking the two runs' samples as independent; or None.
      seed_se: error from the finite number of seeds, or None with one seed on a side.
      degrees: degrees of freedom of `total_se`, by Welch and Satterthwaite.
      not_finite: per-example values behind it that are NaN or infinite.
    """

    value: float
    data_se: float
    mc_se: float | None
    seed_se: float | None
    degrees: float
    not_finite: int = 0

    @property
    def total_se(self) -> float:
        """sqrt(data_se^2 + seed_se^2); data_se holds the Monte-Carlo error already."""
        return math.hypot(self.data_se, self.seed_se or 0.0)

    @property
    def p_value(self) -> float:
        """P(|t| >= |value| / total_se), Student's t with `degrees`; NaN where not known."""
        error = self.total_se
        if self.not_finite or not math.isfinite(error) or not math.isfinite(self.value):
            return math.nan
        if error == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return float(2.0 * stats.t.sf(abs(self.value) / error, self.degrees))


class Judged(NamedTuple):
    """A difference to the baseline, its p-value alone and after Holm's correction."""

    delta: Difference
    p_holm: float

    @property
    def verdict(self) -> str:
        """What may be said of the difference if it is the only one looked at."""
        return verdict(self.delta, self.delta.p_value)

    @property
    def verdict_holm(self) -> str:
        """What may be said of it as one of all differences of its table."""
        return verdict(self.delta, self.p_holm)


def verdict(delta: Difference, p_value: float) -> str:
    """ "higher" or "lower" where p <= LEVEL, else "unclear"; "not finite" where values are."""
    if delta.not_finite:
        return NOT_FINITE
    if not p_value <= LEVEL:
        return UNCLEAR
    return "higher" if delta.value > 0 else "lower"


def bound_names(runs: Sequence[Run]) -> list[str]:
    """The bounds that all runs have, in the order of the first; L_1 is the ELBO, left out."""
    shared = [n for n in runs[0].result["estimates"] if all(n in run.values for run in runs)]
    return [name for name in shared if _BOUNDS.fullmatch(name) and name != "iwae_1"]


def top_bound(names: Sequence[str]) -> str:
    """The L_k of the largest k."""
    return max((n for n in names if n.startswith("iwae_")), key=lambda n: int(n[5:]))


def seed_mean(setting: Setting, name: str) -> Float[np.ndarray, "N"]:
    """Per-example estimate, averaged over seeds, float64."""
    with np.errstate(invalid="ignore"):
        return np.mean([np.asarray(run.values[name], np.float64) for run in setting.runs], axis=0)


def run_means(setting: Setting, name: str) -> Float[np.ndarray, "S"]:
    """The estimate of each seed, averaged over examples."""
    return np.array([means.over_examples(run.values[name]).value for run in setting.runs])


def not_finite(run: Run, name: str) -> int:
    """Examples whose estimate `name` is NaN or infinite."""
    return int(np.sum(~np.isfinite(run.values[name])))


def _difference(
    values: Float[np.ndarray, "N"],
    sides: Sequence[Float[np.ndarray, "S"]],
    mc_se: float,
    bad: int,
) -> Difference:
    """Mean and errors of paired `values`; `sides` are the means of each seed of each side.

    The variance of the mean is v = sum_j v_j over the data (N - 1 degrees of freedom) and the
    seeds of each side (S - 1 each); its degrees of freedom are v^2 / sum_j (v_j^2 / nu_j)
    (Satterthwaite, 1946; Welch, 1947).
    """
    data = means.over_examples(values)
    errors = [(data.data_se, len(values) - 1)]
    seed_se = None
    if min(len(side) for side in sides) > 1:
        errors += [(means.standard_error(side), len(side) - 1) for side in sides]
        seed_se = math.hypot(*(error for error, _ in errors[1:]))
    total = sum(error**2 for error, _ in errors)
    shares = [(error**2 / total, nu) for error, nu in errors if nu > 0 and total > 0.0]
    spread = sum(share**2 / nu for share, nu in shares)
    degrees = 1.0 / spread if spread > 0.0 else math.inf
    return Difference(data.value, data.data_se, means.number(mc_se), seed_se, degrees, bad)


def estimate(setting: Setting, name: str) -> Difference:
    """The estimate itself with its errors (a difference to zero)."""
    bad = _bad([setting], [name])
    sides = [run_means(setting, name)]
    return _difference(seed_mean(setting, name), sides, _mc_error([setting], name), bad)


def difference(setting: Setting, baseline: Setting, name: str) -> Difference:
    """`setting` minus `baseline` in the estimate `name`, paired over examples.

    d_i = mean over seeds of v_i - mean over seeds of b_i; value = mean_i d_i, data_se =
    sd(d_i) / sqrt(N), seed_se = sqrt(se_1^2 + se_2^2) with the error over seeds of each side
    (two runs of one seed share no more than their initial noise: seeds are not paired).
    """
    with np.errstate(invalid="ignore"):
        delta = seed_mean(setting, name) - seed_mean(baseline, name)
    both = [setting, baseline]
    sides = [run_means(part, name) for part in both]
    return _difference(delta, sides, _mc_error(both, name), _bad(both, [name]))


def gap(setting: Setting, name: str) -> Difference:
    """How far the ELBO lies below the bound `name`, paired over examples of the same runs."""
    with np.errstate(invalid="ignore"):
        per_seed = run_means(setting, name) - run_means(setting, "elbo")
        values = seed_mean(setting, name) - seed_mean(setting, "elbo")
    return _difference(values, [per_seed], math.nan, _bad([setting], ["elbo", name]))


def _bad(parts: Sequence[Setting], names: Sequence[str]) -> int:
    return sum(not_finite(run, name) for part in parts for run in part.runs for name in names)


def _mc_error(parts: Sequence[Setting], name: str) -> float:
    """sqrt(sum_s sum_i var_si) / (N S) over both sides; NaN where a run cannot tell its own."""
    total = 0.0
    for setting in parts:
        for run in setting.runs:
            error = means.monte_carlo_error(run.variances[name])
            total += (error / len(setting.runs)) ** 2
    return math.sqrt(total)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that hold for all of them together (Holm, 1979); NaN stays, and does not count.

    p'_(j) = max_{i <= j} min(1, (m - i + 1) p_(i)) for the m sorted p_(1) <= ... <= p_(m).
    """
    corrected, largest = list(p_values), 0.0
    order = [i for i in np.argsort(p_values) if not math.isnan(p_values[i])]
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - position) * p_values[index]))
        corrected[index] = largest
    return corrected


def judge(
    parts: Sequence[Setting], baseline: Setting | None, names: Sequence[str]
) -> dict[tuple[str, str], Judged]:
    """Every difference to `baseline` by (setting, bound), corrected as one family."""
    if baseline is None:
        return {}
    found = {
        (setting.name, name): difference(setting, baseline, name)
        for setting in parts
        if setting is not baseline
        for name in names
    }
    corrected = holm([delta.p_value for delta in found.values()])
    return {key: Judged(delta, p) for (key, delta), p in zip(found.items(), corrected, strict=True)}
