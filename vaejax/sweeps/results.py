"""The results of a sweep as tables: seeds aggregated, the best by validation."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

from vaejax.config import Config
from vaejax.evaluation import means, seeds, terminal
from vaejax.evaluation.means import SeedMean
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps.members import Member

SPLITS = ("validation", "test")  # the last one chooses nothing, and is always there
_NAMELESS = "base"


class Result(NamedTuple):
    """What became of a member.

    Attributes:
      member: the member.
      estimates: of each of `splits_of` its config, as in evaluation.json, or None.
      error: why it failed, or None.
    """

    member: Member
    estimates: dict[str, dict[str, dict[str, float]]] | None
    error: str | None


class Row(NamedTuple):
    """One setting: members that differ in their seed alone.

    Attributes:
      name: unlike that of any other setting.
      overrides: what it changes in the config, without the seed.
      members: their names.
      finished: members with a result.
      failed: members without one.
      estimates: mean and error over the finished seeds, nats, by split and name.
    """

    name: str
    overrides: dict[str, Any]
    members: list[str]
    finished: int
    failed: int
    estimates: dict[str, dict[str, SeedMean]]


def splits_of(config: Config) -> tuple[str, ...]:
    """What members are evaluated on. Nothing is chosen where the config keeps no validation."""
    return SPLITS if config.dataset.has_validation else SPLITS[1:]


def log_marginal_name(num_samples: int) -> str:
    """The estimate that members are ranked by: L_K at the K of the evaluation."""
    return f"iwae_{num_samples}"


def setting_of(member: Member) -> tuple[str, str]:
    """What a member shares with its other seeds: a key, and its name without the seed."""
    return seeds.key(member.overrides), seeds.name_without_seed(member.name) or _NAMELESS


def settings(results: Sequence[Result]) -> list[Row]:
    """One row per setting, best validation L_K first, mean over the seeds that did not fail.

    Without validation images they come in the order of `results`.

    A setting of which seeds failed comes after all whole ones: the mean of those that
    survived is not that of the setting. Those without a finite result come last.
    """
    groups = seeds.by_seed(
        [seeds.Trained(result.member.name, result.member.overrides) for result in results],
        nameless=_NAMELESS,
    )
    rows = [_row(name, [results[i] for i in indices]) for name, indices in groups]
    if not _are_ranked(results):
        return rows
    ranked = _ranked(results)
    return sorted(rows, key=lambda row: _rank(row, ranked), reverse=True)


def _ranked(results: Sequence[Result]) -> str:
    return log_marginal_name(results[0].member.config.evaluation.num_samples)


def _are_ranked(results: Sequence[Result]) -> bool:
    return results[0].member.config.dataset.has_validation


def _rank(row: Row, ranked: str) -> tuple[bool, bool, float]:
    score = _estimate(row, "validation", ranked).value
    if not math.isfinite(score):
        return False, False, -math.inf
    return True, not row.failed, score


def _row(name: str, same: Sequence[Result]) -> Row:
    finished = [result for result in same if result.estimates is not None]
    estimates = {
        split: {
            estimate: means.over_seeds(
                [_value(result.estimates[split].get(estimate)) for result in finished]
            )
            for estimate in (finished[0].estimates[split] if finished else {})
        }
        for split in splits_of(same[0].member.config)
    }
    overrides = {k: v for k, v in same[0].member.overrides.items() if k != seeds.SEED}
    members = [result.member.name for result in same]
    return Row(name, overrides, members, len(finished), len(same) - len(finished), estimates)


def _value(estimate: dict[str, float] | None) -> float:
    """The mean over examples of one member; NaN where its JSON says null."""
    value = (estimate or {}).get("value")
    return math.nan if value is None else value


def _estimate(row: Row, split: str, name: str) -> SeedMean:
    return row.estimates.get(split, {}).get(name, SeedMean(math.nan, math.nan))


def best(rows: Sequence[Row], ranked: str) -> Row | None:
    """The first of sorted rows, None where none has a finite value of `ranked`.

    A setting of which seeds failed is the best one only where there is no whole one.
    """
    return rows[0] if rows and _rank(rows[0], ranked)[0] else None


def best_line(results: Sequence[Result], workdir: pathlib.Path) -> str:
    """The best setting, what it changes, and where the config of its first run lies."""
    if not _are_ranked(results):
        return "best: not chosen, config.dataset keeps no validation images"
    first = best(settings(results), _ranked(results))
    if first is None:
        return "best: none has a finite result"
    changes = ", ".join(f"{path}={value}" for path, value in first.overrides.items())
    config = workdir / first.members[0] / workdir_lib.CONFIG
    return f"best by validation: {first.name}{changes and f' ({changes})'}; its config: {config}"


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """What sweep.json holds: the settings, the best one, and every member."""
    rows, ranked = settings(results), _ranked(results)
    first = best(rows, ranked)
    order = f"validation {ranked}, mean over seeds; settings with failed seeds last"
    return {
        "ranked_by": order if _are_ranked(results) else None,
        "best": first and first.name,
        "settings": [_json(row) for row in rows],
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


def _json(row: Row) -> dict[str, Any]:
    def plain(mean: SeedMean) -> dict[str, float | None]:
        return {"mean": means.number(mean.value), "se": means.number(mean.error)}

    return {
        "name": row.name,
        "overrides": row.overrides,
        "members": row.members,
        "seeds": row.finished,
        "failed": row.failed,
    } | {split: {k: plain(v) for k, v in row.estimates[split].items()} for split in row.estimates}


def csv_text(results: Sequence[Result]) -> str:
    """What sweep.csv holds: one row per setting, means and standard errors over seeds."""
    rows = settings(results)
    first = best(rows, _ranked(results))
    paths = list(dict.fromkeys(path for row in rows for path in row.overrides))
    columns = [
        (split, name)
        for split in splits_of(results[0].member.config)
        for name in dict.fromkeys(name for row in rows for name in row.estimates[split])
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    estimates = [f"{s}/{n}{tail}" for s, n in columns for tail in ("", " se")]
    writer.writerow(["name", "best", "seeds", "failed", *paths, *estimates])
    for row in rows:
        cells = [row.overrides.get(path, "") for path in paths]
        for split, name in columns:
            numbers = map(means.number, _estimate(row, split, name))
            cells += ["" if value is None else repr(value) for value in numbers]
        mark = "yes" if row is first else ""
        writer.writerow([row.name, mark, row.finished, row.failed, *cells])
    return text.getvalue()


def _cell(mean: SeedMean) -> str:
    value, error = map(means.number, mean)
    if value is None:
        return ""
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def table(results: Sequence[Result], *, encoding: str = "utf-8") -> Table:
    """The settings as a reader sees them in a terminal of this encoding."""
    rows, ranked = settings(results), _ranked(results)
    wanted = splits_of(results[0].member.config)
    caption = "nats per example; mean ± standard error over seeds"
    if _are_ranked(results) and any(row.failed for row in rows):
        caption += "; settings of which seeds failed come after whole ones"
    order = f"best first by validation {ranked}"
    if not _are_ranked(results):
        order = "in the order of the sweep: no validation images to rank them by"
    shown = Table(
        title=f"{len(results)} members, {order}",
        caption=terminal.literal(caption, encoding),
    )
    shown.add_column("setting", overflow="fold")
    shown.add_column("seeds", justify="right")
    for split in wanted:
        for heading in ("ELBO", ranked):
            shown.add_column(f"{split} {heading}", justify="right")
    for row in rows:
        cells = [row.name, seeds.count_text(row.finished, row.failed)]
        cells += [_cell(_estimate(row, split, n)) for split in wanted for n in ("elbo", ranked)]
        shown.add_row(*[terminal.literal(cell, encoding) for cell in cells])
    return shown
