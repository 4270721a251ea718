"""Evidence as numbers for JSON and as tables for a reader."""

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vaejax.evidence import gaps as gap_analysis
from vaejax.runs import report as reporting
from vaejax.types import Evidence

BEST_FIRST = ("exact", "quadrature", "annealed", "smc", "importance")
CAVEAT = "the sandwich is on data simulated by the model: evidence for real data, no guarantee"
_SANDWICH_ERRORS = 3.0


def number(value: float) -> float | None:
    """A float for JSON: None, "unknown", where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _mean(values: np.ndarray, variances: np.ndarray) -> dict[str, float | None]:
    """Mean over examples with its Monte-Carlo and data errors, float64."""
    values, variances = np.asarray(values, np.float64), np.asarray(variances, np.float64)
    return {
        "value": number(values.mean()),
        "mc_se": number(math.sqrt(variances.sum()) / len(values)),
        "data_se": number(values.std(ddof=1) / math.sqrt(len(values))),
    }


def estimate(result: Evidence, label: str) -> dict[str, Any]:
    """One row of `estimates`: mean, errors, what it is, and how much of it to trust."""
    return _mean(result.value, result.variance) | {
        "label": label,
        "num_examples": len(result.value),
        "do_not_trust": float(1.0 - np.mean(result.trusted)),
        "not_finite": int(np.sum(~np.isfinite(result.value))),
    }


def watched(result: Evidence) -> dict[str, Any]:
    """An estimator's diagnostics over all examples: totals of counts, means of the rest."""
    summary = {}
    for name, values in result.diagnostics._asdict().items():
        values = np.asarray(values)
        if values.dtype.kind in "iu":
            summary[name] = int(values.max() if name == "num_steps" else values.sum())
        elif values.ndim == 1:
            summary[name] = number(values.mean())
        elif name == "acceptance":
            summary[name] = [number(value) for value in values.mean(axis=0)]
    return summary


def sandwich(lower: Evidence, upper: Evidence) -> dict[str, Any]:
    """Both sides of log p(x) on simulated data, and the distance between them.

    gap_se is the spread of the gap over simulated examples. valid: every chain finite, and
    the gap not below zero by more than three errors.
    """
    rows = {
        "lower": _mean(lower.value, lower.variance),
        "upper": _mean(upper.value, upper.variance),
    }
    gap = np.asarray(upper.value, np.float64) - np.asarray(lower.value, np.float64)
    gap_se = gap.std(ddof=1) / math.sqrt(len(gap))
    broken = int(lower.diagnostics.broken_chains.sum() + upper.diagnostics.broken_chains.sum())
    return {
        "lower": rows["lower"]["value"],
        "upper": rows["upper"]["value"],
        "gap": number(gap.mean()),
        "gap_se": number(gap_se),
        "largest_gap": number(gap.max()),
        "num_simulated": len(gap),
        "valid": bool(broken == 0 and gap.mean() >= -_SANDWICH_ERRORS * gap_se),
        "divergent_moves": int(
            lower.diagnostics.divergent_moves.sum() + upper.diagnostics.divergent_moves.sum()
        ),
        "broken_chains": broken,
        "labels": {"lower": "lower bound", "upper": "upper bound"},
        "note": CAVEAT,
    }


def gaps(
    log_marginal: np.ndarray, elbos: gap_analysis.Elbos, *, source: str, num_layers: int
) -> dict[str, Any]:
    """Inference, approximation and amortization gap for the diagonal family, and below it
    those of the full-covariance one; `log_marginal` [N, 2] is the estimate named `source`.
    """
    families = {}
    for family, best in elbos.best.items():
        parts = gap_analysis.decompose(log_marginal, np.asarray(elbos.encoder), np.asarray(best))
        families[family] = {
            name: _mean(part[:, 0], part[:, 1]) for name, part in map(_as_float64, parts.items())
        }
    normal = "joint normal over the latents of all layers" if num_layers > 1 else "normal"
    return families["diagonal"] | {
        "family": f"{normal}, diagonal covariance",
        "full_covariance": families["full_covariance"],
        "elbo": _mean(elbos.encoder[:, 0], elbos.encoder[:, 1]),
        "log_marginal": _mean(log_marginal[:, 0], log_marginal[:, 1]),
        "log_marginal_from": source,
        "num_examples": len(log_marginal),
    }


def _as_float64(item: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
    return item[0], np.asarray(item[1], np.float64)


def labelled(estimates: dict[str, dict]) -> dict[str, dict]:
    """Every row with its label: lower bound, upper bound, estimate or exact."""
    return {
        name: {"label": reporting.meaning(name)} | row if "label" not in row else row
        for name, row in estimates.items()
    }


def best_estimate(estimates: dict[str, Any]) -> str | None:
    """The most trustworthy of the estimates at hand, by kind."""
    return next((name for name in BEST_FIRST if name in estimates), None)


def _cell(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def _add(table: Table, name: str, row: dict, elbo: float | None, kind: str, share: str) -> None:
    above = None if elbo is None or row["value"] is None else row["value"] - elbo
    table.add_row(
        name,
        _cell(row["value"], 3),
        "" if above is None else f"{above:+.3f}",
        _cell(row["mc_se"], 4),
        _cell(row["data_se"], 3),
        share,
        kind,
    )


def evidence_table(result: dict[str, Any]) -> Table:
    """Every estimate on the same examples, with errors, the share flagged, and what it is."""
    same = result["evidence"]["same_examples"]
    protocol, count = result["protocol"], result["evidence"]["protocol"]["num_examples"]
    table = Table(
        title=f"log p(x): {protocol['dataset']} {protocol['split']}, first {count:,} examples",
        caption="nats per example; one standard error each; flagged: examples whose error is "
        "not to be trusted",
    )
    table.add_column("estimate")
    for name in ("value", "- ELBO", "MC error", "data error", "flagged"):
        table.add_column(name, justify="right")
    table.add_column("what it is")
    elbo = same["elbo"]["value"]
    for name, row in same.items():
        _add(table, name, row, elbo, row["label"], "")
    for name, row in result["estimates"].items():
        if "do_not_trust" in row:
            _add(table, name, row, elbo, row["label"], f"{row['do_not_trust']:.0%}")
    return table


def sandwich_line(result: dict[str, Any]) -> str:
    """The bidirectional bounds in one sentence."""
    both = result["sandwich"]
    return (
        f"sandwich on {both['num_simulated']:,} simulated examples: "
        f"lower {_cell(both['lower'], 3)}, upper {_cell(both['upper'], 3)}, gap "
        f"{_cell(both['gap'], 4)} +- {_cell(both['gap_se'], 4)}"
        f"{'' if both['valid'] else '; NOT VALID'} ({CAVEAT})"
    )


def gaps_table(result: dict[str, Any]) -> Table:
    """Where the ELBO loses its nats, for both families."""
    found = result["gaps"]
    table = Table(
        title=f"log p(x) - ELBO, log p(x) from {found['log_marginal_from']}, "
        f"{found['num_examples']:,} examples",
        caption=f"nats per example +- Monte-Carlo error; q: {found['family'].split(',')[0]}",
    )
    for name in ("covariance of q*", "inference gap", "= approximation", "+ amortization"):
        table.add_column(name, justify="right")
    for family, rows in (("diagonal", found), ("full", found["full_covariance"])):
        cells = [
            f"{_cell(rows[part]['value'], 3)} +- {_cell(rows[part]['mc_se'], 3)}"
            for part in ("inference", "approximation", "amortization")
        ]
        table.add_row(family, *cells)
    return table


def show(result: dict[str, Any], console: Console) -> None:
    """Prints the tables of what is there."""
    console.print(evidence_table(result))
    if "sandwich" in result:
        console.print(sandwich_line(result))
    if "gaps" in result:
        console.print(gaps_table(result))
    bad = result["diagnostics"].get("pareto_k_bad")
    if bad is not None:
        console.print(f"importance weights: Pareto k-hat too large for {bad:.0%} of examples")
    for count in ("divergent_moves", "broken_chains"):
        for name, number in result["diagnostics"].get(count, {}).items():
            if number:
                console.print(f"{name}: {number:,} {count.replace('_', ' ')}")
