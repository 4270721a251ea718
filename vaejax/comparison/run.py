"""Comparing runs: reads their evaluations, writes the tables, the figures and the page."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from vaejax.comparison import budgets, csv_table, estimators, figures, protocol, read, report, where
from vaejax.comparison import statistics as comparison
from vaejax.comparison.report import Comparable
from vaejax.comparison.statistics import Run, Setting
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.evaluation import seeds
from vaejax.runs import files as evaluations
from vaejax.runs import tables
from vaejax.runs.files import Stored
from vaejax.storage import files, html_page
from vaejax.storage import workdir as workdir_lib
from vaejax.training import runs
from vaejax.training import step as training

CSV, MARKDOWN, PAGE, FIGURES = "comparison.csv", "comparison.md", "index.html", "figures"
_CAPTIONS = {
    "bounds": "L_k against k for every setting, mean over seeds; bars: standard error over seeds",
    "gaps": "L_K - ELBO, with two errors",
    "training": "Validation ELBO and L_k against the epoch, one line per seed",
    "budget": "Best validation L_k so far against decoder evaluations and wall time of training",
    "samples": "E[x|z] for the same draws z from the prior, first seed of each setting",
    "extremes": "Images of the largest differences in L_K, and L_K of both settings",
}


class Report(NamedTuple):
    """What a comparison says.

    Attributes:
      tables: settings that may be compared with each other, and their baseline (or None).
      lines: sentences beside the tables.
    """

    tables: list[Comparable]
    lines: list[str]


class _Missing(NamedTuple):
    """What could not be made, and why."""

    what: str
    why: str


class _Where(NamedTuple):
    """Where the settings of one table differ."""

    tables: list[html_page.Table]
    figures: dict[str, Figure]
    lines: list[str]
    missing: list[_Missing]


class _Samples(NamedTuple):
    """E[x|z] by setting, [n, D] each, the shape of an image, and the settings without."""

    pictures: dict[str, np.ndarray]
    shape: tuple[int, ...] | None
    missing: list[_Missing]


def compare(
    paths: Sequence[str],
    *,
    baseline: str | None,
    out: pathlib.Path,
    force: bool,
    console: Console,
) -> Report:
    """Compares the evaluated runs at `paths` (a sweep stands for its members).

    Writes comparison.csv, comparison.md, index.html and figures/*.png into `out`, whose
    place is tried before anything is computed.

    Raises:
      UserError: a run without evaluation or counted twice, protocols that differ (unless
        `force`), an unknown baseline, or a folder that cannot be written.
    """
    folders, failed = read.expand(paths, console)
    names = read.names(folders)
    found = [read.run(folder, name) for folder, name in zip(folders, names, strict=True)]
    first = read.baseline_run(baseline, folders, found)
    protocol.check_distinct(found)
    if not force:
        protocol.check(found)
    files.require_writable(out, (CSV, MARKDOWN, PAGE, f"{FIGURES}/bounds.png"))
    parts, by_name = protocol.settings(found, failed), dict(zip(names, folders, strict=True))
    samples = _samples(parts, by_name)
    tables = [Comparable(group, _setting_of(first, group)) for group in protocol.groups(parts)]
    inside = [_where(one, by_name) for one in tables if one.baseline and len(one.settings) > 1]
    lines = [line for one in inside for line in one.lines]
    missing = [one for part in (*inside, samples) for one in part.missing]
    result = Report(tables, [*_lines(tables, found), *lines, *_missing_lines(missing)])
    drawn = _figures(parts, samples) | {k: v for one in inside for k, v in one.figures.items()}
    _write(out, result, drawn, [table for one in inside for table in one.tables])
    for table in result.tables:
        console.print(report.terminal_table(table, encoding=console.encoding))
    return result


def _where(table: Comparable, folders: Mapping[str, pathlib.Path]) -> _Where:
    """Differences to the baseline by class, by image (of two settings), by model and inference,
    and by estimators of log p(x) other than L_K.
    """
    run, baseline = table.baseline.runs[0], table.baseline
    others = [setting for setting in table.settings if setting is not baseline]
    name = report.compared(table)[1]
    found = _Where([], {}, [], [])
    try:
        evidence = {one.name: _stored(folders[one.name]) for s in table.settings for one in s.runs}
        said = [where.model_or_inference(one, baseline, evidence) for one in others]
        found.lines.extend(line for line in said if line is not None)
        _add_estimators(found, table, evidence)
        config = workdir_lib.read_config(folders[run.name])
        held_out, labels = splits.held_out(config, "test"), splits.test_labels(config)
    except UserError as error:
        found.missing.append(_Missing("differences by class or image", str(error)))
        return found
    if held_out.sha256 != protocol.agreed(run, "data_sha256"):
        why = "the test set is another one now"
        found.missing.append(_Missing("differences by class or image", why))
        return found
    if labels is not None and len(labels) == len(held_out.x):
        by_class = where.by_class(table.settings, baseline, name, labels)
        found.tables.extend([] if by_class is None else [by_class])
    if len(others) == 1:
        pair = (others[0].name, baseline.name)
        images = held_out.x / (held_out.x.max() or 1)
        extremes = where.extremes(others[0], baseline, name)
        found.figures["extremes"] = figures.extremes(extremes, images, pair)
    return found


def _add_estimators(found: _Where, table: Comparable, stored: Mapping[str, Stored]) -> None:
    """Puts the comparison by estimators of log p(x) into `found`, where the runs have them."""
    shared = estimators.measured(stored)
    if shared is None:
        return
    found.lines.extend(shared.left_out)
    if not shared.names:
        return
    parts = estimators.settings(table.settings, stored, shared)
    baseline = parts[[part is table.baseline for part in table.settings].index(True)]
    found.tables.append(estimators.table(parts, baseline, stored, shared))
    found.lines.extend(estimators.of_inference(parts, baseline, shared))


def _stored(folder: pathlib.Path) -> Stored:
    stored = evaluations.read(evaluations.path_of(folder, "test"))
    if stored is None:
        raise UserError(f"{folder}: its evaluation is gone")
    return stored


def _setting_of(run: Run, parts: Sequence[Setting]) -> Setting | None:
    return next((part for part in parts if any(one is run for one in part.runs)), None)


def _lines(tables: Sequence[Comparable], found: Sequence[Run]) -> list[str]:
    """What to know beside the tables."""
    lines = []
    if len(tables) > 1:
        lines.append(
            "Evaluated unlike, so no differences between the tables: "
            f"{'; '.join(protocol.mismatches(found))}."
        )
    parts = [setting for table in tables for setting in table.settings]
    for setting in parts:
        lines += _about(setting)
    lines += _single_seeds(tables)
    precisions = {str(run.result["protocol"].get("training_precision")): run for run in found}
    if len(precisions) > 1:
        said = ", ".join(f"{value} in {run.name}" for value, run in precisions.items())
        lines.append(f"Trained at unlike precision of matrix products: {said}.")
    reason = budgets.mismatch(found)
    if reason:
        return [*lines, f"No equal-budget view: {reason}."]
    reached = [budgets.equal_budget(parts, cost=cost) for cost in budgets.COSTS]
    return lines + [budgets.sentence(one) for one in reached if one is not None]


def _about(setting: Setting) -> list[str]:
    """Sentences on one setting: seeds lost, bias, unfinished runs, values that are not finite."""
    lines = []
    if setting.failed:
        count = seeds.count_text(len(setting.runs), setting.failed)
        lines.append(f"{setting.name}: {count} seeds; the others failed, so it has no whole mean.")
    biased = tables.biased_line(setting.runs[0].result["protocol"].get("biased_gradient"))
    if biased:
        lines.append(f"{setting.name}: {biased}.")
    for run in setting.runs:
        if protocol.agreed(run, "finished") is not True:
            lines.append(f"{run.name}: evaluated before its training was finished.")
        for name in comparison.bound_names([run]):
            bad, count = comparison.not_finite(run, name), len(run.values[name])
            if bad:
                lines.append(
                    f"{run.name}: {bad:,} of {count:,} values of {name} are not finite; "
                    f"no verdict on them."
                )
    return lines


def _single_seeds(tables: Sequence[Comparable]) -> list[str]:
    single = [
        setting.name
        for table in tables
        if table.baseline is not None and len(table.settings) > 1
        for setting in table.settings
        if len(setting.runs) == 1
    ]
    if not single:
        return []
    return [
        f"One seed only: {', '.join(single)}. A verdict on it speaks of this run, not of its "
        f"setting: the spread over seeds is not known."
    ]


def _missing_lines(missing: Sequence[_Missing]) -> list[str]:
    """One sentence for each reason, which may be long and is said once."""
    by_reason: dict[str, dict[str, None]] = {}
    for what, why in missing:
        by_reason.setdefault(why, {})[what] = None
    return [f"No {', no '.join(whats)}: {why}." for why, whats in by_reason.items()]


def _figures(parts: Sequence[Setting], samples: _Samples) -> dict[str, Figure]:
    everyone = [run for setting in parts for run in setting.runs]
    found = {"bounds": figures.bounds(parts), "gaps": figures.gaps(parts)}
    if any("validation/iwae" in row for run in everyone for row in run.metrics):
        found["training"] = figures.training_curves(parts)
        if budgets.mismatch(everyone) is None:
            found["budget"] = figures.budget(parts)
    if samples.pictures:
        found["samples"] = figures.samples(samples.pictures, samples.shape)
    return found


def _samples(parts: Sequence[Setting], folders: Mapping[str, pathlib.Path]) -> _Samples:
    """Samples of the first seed of each setting whose images have the shape of the first's."""
    found = _Samples({}, None, [])
    for setting in parts:
        folder = folders[setting.runs[0].name]
        try:
            shape = splits.held_out(workdir_lib.read_config(folder), "test").shape
            if found.shape in (None, shape):
                found.pictures[setting.name] = _draw(folder, shape)
                found = found._replace(shape=shape)
        except UserError as error:
            found.missing.append(_Missing(f"samples of {setting.name}", str(error)))
    return found


def _draw(folder: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    quiet = Console(quiet=True, markup=False)
    _, model, state = runs.load_run(folder, shape, console=quiet)
    return runs.prior_means(model, training.evaluation_params(state))


def _write(
    out: pathlib.Path,
    result: Report,
    drawn: Mapping[str, Figure],
    more: Sequence[html_page.Table],
) -> None:
    pictures = []
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        pictures.append(html_page.Picture(name, _CAPTIONS[name], buffer.getvalue()))
    texts = {
        CSV: csv_table.text(result.tables),
        MARKDOWN: report.markdown(result.tables, result.lines, [*drawn], more),
        PAGE: report.page(result.tables, result.lines, pictures, more),
    }
    contents = {f"{FIGURES}/{picture.name}.png": picture.image for picture in pictures}
    contents |= {name: text.encode() for name, text in texts.items()}
    writers = {name: lambda file, data=data: file.write(data) for name, data in contents.items()}
    workdir_lib.publish(out, writers)
