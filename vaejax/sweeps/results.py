"""The results of a sweep as tables: seeds aggregated, the best by validation."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from vaejax.sweeps.members import Member

SPLITS = ("validation", "test")
_SEED_IN_NAME = re.compile(r"(^|,)seed=\d+")


class Result(NamedTuple):
    """What became of a member.

    Attributes:
      member: the member.
      estimates: {"validation": {...}, "test": {...}} as in evaluation.json, or None.
      error: why it failed, or None.
    """

    member: Member
    estimates: dict[str, dict[str, dict[str, float]]] | None
    error: str | None


def log_marginal_name(num_samples: int) -> str:
    """The estimate that members are ranked by: L_K at the K of the evaluation."""
    return f"iwae_{num_samples}"


def setting_of(member: Member) -> tuple[str, str]:
    """What a member shares with its other seeds: a key, and its name without the seed."""
    overrides = {path: value for path, value in member.overrides.items() if path != "seed"}
    name = _SEED_IN_NAME.sub("", member.name).strip(",") or "base"
    return json.dumps(overrides, sort_keys=True, default=str), name


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard error sd / sqrt(n) over seeds (None below two of them)."""
    if not values:
        return None, None
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), None if error is None else float(error)


def settings(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per setting, best validation L_K first; settings without a result last.

    Each estimate is {"mean", "se"} over the seeds that did not fail, in nats.
    """
    by_key: dict[str, list[Result]] = {}
    for result in results:
        by_key.setdefault(setting_of(result.member)[0], []).append(result)
    rows = []
    for same in by_key.values():
        finished = [result for result in same if result.estimates is not None]
        member = same[0].member
        row = {
            "name": setting_of(member)[1],
            "overrides": {k: v for k, v in member.overrides.items() if k != "seed"},
            "members": [result.member.name for result in same],
            "seeds": len(finished),
            "failed": len(same) - len(finished),
        }
        for split in SPLITS:
            names = finished[0].estimates[split] if finished else {}
            row[split] = {}
            for name in names:
                values = [result.estimates[split][name]["value"] for result in finished]
                mean, error = mean_and_error(values)
                row[split][name] = {"mean": mean, "se": error}
        rows.append(row)
    ranked = log_marginal_name(results[0].member.config.evaluation.num_samples)
    score = lambda row: row["validation"].get(ranked, {"mean": -math.inf})["mean"]  # noqa: E731
    return sorted(rows, key=score, reverse=True)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """What sweep.json holds: the settings, the best one, and every member."""
    rows = settings(results)
    ranked = log_marginal_name(results[0].member.config.evaluation.num_samples)
    return {
        "ranked_by": f"validation {ranked}, mean over seeds",
        "best": rows[0]["name"] if rows[0]["seeds"] else None,
        "settings": rows,
        "members": [
            {
                "name": result.member.name,
                "overrides": result.member.overrides,
                "error": result.error,
                "estimates": result.estimates,
            }
            for result in results
        ],
    }


def csv_text(results: Sequence[Result]) -> str:
    """What sweep.csv holds: one row per setting, means and standard errors over seeds."""
    rows = settings(results)
    paths = list(dict.fromkeys(path for row in rows for path in row["overrides"]))
    named = next((row for row in rows if row["seeds"]), {split: {} for split in SPLITS})
    columns = [(split, name) for split in SPLITS for name in named[split]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    estimates = [f"{s}/{n}{tail}" for s, n in columns for tail in ("", " se")]
    writer.writerow(["name", "best", "seeds", "failed", *paths, *estimates])
    for index, row in enumerate(rows):
        cells = [row["overrides"].get(path, "") for path in paths]
        for split, name in columns:
            value = row[split].get(name, {"mean": None, "se": None})
            cells += ["" if value[k] is None else repr(value[k]) for k in ("mean", "se")]
        best = "yes" if index == 0 and row["seeds"] else ""
        writer.writerow([row["name"], best, row["seeds"], row["failed"], *cells])
    return text.getvalue()


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    error = "" if value["se"] is None else f" ± {value['se']:.3f}"
    return f"{value['mean']:.3f}{error}"


def table(results: Sequence[Result]) -> Table:
    """The settings as a reader sees them in a terminal."""
    ranked = log_marginal_name(results[0].member.config.evaluation.num_samples)
    shown = Table(
        title=f"{len(results)} members, best first by validation {ranked}",
        caption="nats per example; mean ± standard error over seeds",
    )
    shown.add_column("setting")
    for heading in ("seeds", "validation ELBO", f"validation {ranked}", "test ELBO"):
        shown.add_column(heading, justify="right")
    shown.add_column(f"test {ranked}", justify="right")
    for row in settings(results):
        count = f"{row['seeds']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
        cells = [_cell(row[split].get(n)) for split in SPLITS for n in ("elbo", ranked)]
        shown.add_row(row["name"], count, *cells)
    return shown
