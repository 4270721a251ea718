"""From per-example arrays to the rows of a result. Pure, in float64."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from vaejax.evaluation import means
from vaejax.evaluation.per_example import ACTIVE_THRESHOLD, PerExample, unit_activity
from vaejax.evaluation.results import Diagnostics, Estimate, Sandwich
from vaejax.evidence import weights
from vaejax.types import Evidence

CAVEAT = "the sandwich is on data simulated by the model: evidence for real data, no guarantee"
_SANDWICH_ERRORS = 3.0
_LEADING = ("elbo", "reconstruction", "kl", "kl_closed_form")
_LABELS = {
    "elbo": "lower bound",
    "reconstruction": "ELBO + kl",
    "kl": "estimate",
    "kl_closed_form": "exact",
    "log_marginal": "exact",
}
_SHOWN_BY_ESTIMATORS = ("jackknife",)  # a row of the estimator `importance`


def label(name: str) -> str:
    """Whether a row of the evaluation is a bound, a part of one, or exact."""
    return "lower bound" if name.startswith("iwae_") else _LABELS[name]


def row(
    values: Float[np.ndarray, "N"],
    variances: Float[np.ndarray, "N"],
    label: str,
    trusted: Bool[np.ndarray, "N"] | None = None,
    *,
    num_dims: int | None = None,
) -> Estimate:
    """Mean over examples with its errors, what it is, and how much of it to trust.

    Values that are not finite are counted, and leave no finite mean. With `num_dims`, D, they
    are log masses of D whole numbers, and the mean is given in bits per dimension too.
    """
    share = None if trusted is None else float(1.0 - np.mean(trusted))
    mean = means.over_examples(values, variances)
    bad = int(np.sum(~np.isfinite(values)))
    bits = None if num_dims is None else means.bits_per_dim(mean.value, num_dims)
    return Estimate(*mean, label, len(values), bad, share, bits)


def _reading_order(name: str) -> tuple[int, int]:
    if name.startswith("iwae_"):
        return len(_LEADING), int(name.removeprefix("iwae_"))
    return _LEADING.index(name) if name in _LEADING else len(_LEADING) + 1, 0


def is_of_log_marginal(name: str) -> bool:
    """Whether a row of the evaluation is log p(x) or a bound on it."""
    return name in ("elbo", "log_marginal") or name.startswith("iwae_")


def estimates(per_example: PerExample, *, num_dims: int | None = None) -> dict[str, Estimate]:
    """A row for each estimate that K samples and closed forms give, in reading order.

    `num_dims` is D where x are whole numbers of which p(x) is a mass, as in `Protocol`.
    """
    found, exact = per_example.weights, per_example.exact
    values = found.values | exact
    variances = found.variances | {name: np.zeros_like(v) for name, v in exact.items()}
    names = sorted(set(values) - set(_SHOWN_BY_ESTIMATORS), key=_reading_order)
    dims = {name: num_dims if is_of_log_marginal(name) else None for name in names}
    return {
        name: row(values[name], variances[name], label(name), num_dims=dims[name]) for name in names
    }


def diagnostics(per_example: PerExample, *, num_samples: int) -> Diagnostics:
    """Median ESS, shares of examples that are flagged, active units per layer."""
    found = per_example.weights
    bad = weights.k_hat_is_bad(found.pareto_k, num_samples)
    return Diagnostics(
        ess_median=float(np.median(found.ess)),
        ess_below_100=float(np.mean(np.asarray(found.ess) < weights.ESS_NEEDED)),
        pareto_k_bad=float(np.mean(bad)),
        do_not_trust=float(1.0 - np.mean(weights.trusted(found, num_samples=num_samples))),
        active_units=tuple(
            int(np.sum(layer > ACTIVE_THRESHOLD)) for layer in unit_activity(per_example)
        ),
    )


def sandwich(lower: Evidence, upper: Evidence) -> Sandwich:
    """Both sides of log p(x) on simulated data, and the distance between them."""
    gap = np.asarray(upper.value, np.float64) - np.asarray(lower.value, np.float64)
    gap_se = means.standard_error(gap)
    sides = [side.diagnostics.watched().counts for side in (lower, upper)]
    counts = {name: sum(side[name] for side in sides) for name in sides[0]}
    return Sandwich(
        lower=means.over_examples(lower.value).value,
        upper=means.over_examples(upper.value).value,
        gap=means.over_examples(gap).value,
        gap_se=gap_se,
        largest_gap=float(gap.max()),
        num_simulated=len(gap),
        valid=bool(not counts["broken_chains"] and gap.mean() >= -_SANDWICH_ERRORS * gap_se),
        **counts,
        labels={"lower": "lower bound", "upper": "upper bound"},
        note=CAVEAT,
    )


def not_finite_lines(rows: Sequence[tuple[str, Estimate]]) -> list[str]:
    """One sentence for each row with values that are infinite or not a number."""
    return [
        f"{name}: {found.not_finite:,} of {found.num_examples:,} values are not finite; their "
        f"mean says nothing"
        for name, found in rows
        if found.not_finite
    ]
