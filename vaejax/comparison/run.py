"""Comparing runs: reads their evaluations, writes the tables, the figures and the page."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from vaejax.comparison import figures as comparison_plots
from vaejax.comparison import report as comparison_report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Run, Setting
from vaejax.errors import UserError, unknown
from vaejax.runs import report as reporting
from vaejax.storage import logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import runs
from vaejax.training import step as training

_CAPTIONS = {
    "bounds": "L_k against k for every setting, mean over seeds; bars: standard error over seeds",
    "gaps": "L_K - ELBO, with two errors",
    "training": "Validation ELBO and L_k against the epoch, one line per seed",
    "budget": "Best validation L_k so far against decoder evaluations and wall time of training",
    "samples": "E[x|z] for the same draws z from the prior, first seed of each setting",
}


class Report(NamedTuple):
    """What a comparison says.

    Attributes:
      tables: settings that may be compared with each other, and their baseline (or None).
      lines: sentences beside the tables.
    """

    tables: list[tuple[list[Setting], Setting | None]]
    lines: list[str]


def compare(
    paths: Sequence[str],
    *,
    baseline: str | None,
    out: pathlib.Path,
    force: bool,
    console: Console,
) -> Report:
    """Compares the evaluated runs at `paths` (a sweep stands for its members).

    Writes comparison.csv, comparison.md, index.html and figures/*.png into `out`.

    Raises:
      UserError: a run without evaluation, protocols that differ (unless `force`), an
        unknown baseline, or a folder that cannot be written.
    """
    folders = _expand(paths, console)
    names = _names(folders)
    found = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    first = _baseline_run(baseline, folders, found)
    if not force:
        comparison.check_protocols(found)
    report = _report(found, first)
    figures = _figures(report, dict(zip(names, folders, strict=True)))
    _write(out, report, figures)
    for table in report.tables:
        console.print(comparison_report.terminal_table(*table))
    return report


def _expand(paths: Sequence[str], console: Console) -> list[pathlib.Path]:
    """Run folders; the folder of a sweep gives those of its members that did not fail."""
    if not paths:
        raise UserError("RUN: at least one folder of a run, or of a sweep, is needed")
    folders: list[pathlib.Path] = []
    for text in paths:
        path = pathlib.Path(text)
        groups = path / "groups.json"
        if not groups.is_file():
            folders.append(path)
            continue
        for name in (name for group in workdir_lib.read_json(groups) for name in group):
            if (path / name / "failed.json").is_file():
                console.print(f"{path / name} failed and is left out", soft_wrap=True)
            elif not (path / name).is_dir():
                console.print(f"{path / name} is gone and is left out", soft_wrap=True)
            else:
                folders.append(path / name)
    twice = [folder for folder in folders if folders.count(folder) > 1]
    if twice:
        raise UserError(f"RUN: {twice[0]} is given twice")
    if not folders:
        raise UserError(f"RUN: {paths[0]} holds no finished run")
    return folders


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
    names = [folder.name for folder in folders]
    return names if len({*names}) == len(names) else [str(folder) for folder in folders]


def read_run(folder: pathlib.Path, name: str) -> Run:
    """The evaluation of the run in `folder`. Raises UserError where it is missing or broken."""
    if not (folder / workdir_lib.CONFIG).is_file():
        raise UserError(f"{folder}: holds no run (no {workdir_lib.CONFIG}); train one there first")
    path, arrays_path = folder / workdir_lib.EVALUATION, folder / workdir_lib.PER_EXAMPLE
    if not path.is_file() or not arrays_path.is_file():
        raise UserError(
            f"{folder}: has no evaluation; run python scripts/evaluate.py --workdir={folder} first"
        )
    result = workdir_lib.read_json(path)
    try:
        with np.load(arrays_path) as arrays:
            values = {k[6:]: arrays[k] for k in arrays.files if k.startswith("value/")}
            variances = {k[12:]: arrays[k] for k in arrays.files if k.startswith("mc_variance/")}
        count = result["protocol"]["num_examples"]
        if not values or any(len(value) != count for value in values.values()):
            raise ValueError(f"needs {count} values per estimate")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(
            f"{arrays_path}: cannot be read ({error}); run python scripts/evaluate.py "
            f"--workdir={folder} again"
        ) from error
    config = workdir_lib.read_json(folder / workdir_lib.CONFIG)
    metrics = logging.read_metrics(folder / workdir_lib.METRICS)
    return Run(name, config, result, values, variances, metrics)


def _baseline_run(baseline: str | None, folders, found: Sequence[Run]) -> Run:
    if baseline is None:
        return found[0]
    legal = [str(folder) for folder in folders]
    chosen = [str(pathlib.Path(baseline)) == text for text in legal]
    by_name = [baseline == run.name for run in found]
    for matches in (chosen, by_name):
        if any(matches):
            return found[matches.index(True)]
    raise unknown("--baseline", baseline, legal)


def _report(found: Sequence[Run], first: Run) -> Report:
    tables, lines = [], []
    groups = comparison.protocol_groups(found)
    for group in groups:
        parts = comparison.settings(group)
        tables.append((parts, next((s for s in parts if any(r is first for r in s.runs)), None)))
    if len(groups) > 1:
        lines.append(
            "Evaluated unlike, so no differences between the tables: "
            f"{'; '.join(comparison.protocol_mismatches(found))}."
        )
    everything = [setting for parts, _ in tables for setting in parts]
    for setting in everything:
        biased = reporting.biased_line(setting.runs[0].result)
        if biased:
            lines.append(f"{setting.name}: {biased}.")
    reason = comparison.budget_mismatch(found)
    if reason:
        lines.append(f"No equal-budget view: {reason}.")
    else:
        costs = ("decoder_evaluations", "seconds")
        budgets = {cost: comparison.equal_budget(everything, cost=cost) for cost in costs}
        lines += comparison_report.budget_lines({c: b for c, b in budgets.items() if b[1]})
    return Report(tables, lines)


def _figures(report: Report, folders: dict[str, pathlib.Path]) -> dict[str, Any]:
    parts = [setting for settings, _ in report.tables for setting in settings]
    everyone = [run for setting in parts for run in setting.runs]
    figures = {"bounds": comparison_plots.bounds(parts), "gaps": comparison_plots.gaps(parts)}
    if any("validation/iwae" in row for run in everyone for row in run.metrics):
        figures["training"] = comparison_plots.training_curves(parts)
        if comparison.budget_mismatch(everyone) is None:
            figures["budget"] = comparison_plots.budget(parts)
    return figures | _samples(parts, folders)


def _samples(parts: Sequence[Setting], folders: dict[str, pathlib.Path]) -> dict[str, Any]:
    """Samples of the first seed of each setting whose images have the shape of the first's."""
    pictures, first_shape = {}, None
    for setting in parts:
        folder = folders[setting.runs[0].name]
        shape = _image_shape(folder)
        first_shape = first_shape or shape
        if shape == first_shape and shape is not None:
            pictures[setting.name] = _draw(folder, shape)
    return {"samples": comparison_plots.samples(pictures, first_shape)} if pictures else {}


def _image_shape(folder: pathlib.Path) -> tuple[int, ...] | None:
    from vaejax.data import splits

    try:
        return splits.held_out(workdir_lib.read_config(folder), "test").shape
    except UserError:
        return None


def _draw(folder: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    _, model, state = runs.load_run(folder, shape, console=Console(quiet=True))
    return runs.prior_means(model, training.evaluation_params(state))


def _write(out: pathlib.Path, report: Report, figures: dict[str, Any]) -> None:
    pictures = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        pictures[name] = (_CAPTIONS[name], buffer.getvalue())
    texts = {
        "comparison.csv": comparison_report.csv_text(report.tables),
        "comparison.md": comparison_report.markdown(report.tables, report.lines, [*figures]),
        "index.html": comparison_report.page(report.tables, report.lines, pictures),
    }
    contents = {f"figures/{name}.png": png for name, (_, png) in pictures.items()}
    contents |= {name: text.encode() for name, text in texts.items()}
    for name, content in contents.items():
        workdir_lib.write_atomically(out / name, lambda file, content=content: file.write(content))
