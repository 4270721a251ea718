"""Figures of a comparison. Each function makes one matplotlib Figure and touches no file."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from vaejax.comparison import budgets
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Setting
from vaejax.comparison.where import Extremes
from vaejax.evaluation import figures as plots

# Okabe and Ito (2008): told apart by readers with any colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")


def _look(index: int) -> dict[str, str]:
    return {
        "color": _COLORS[index % len(_COLORS)],
        "ls": _STYLES[index // len(_COLORS) % len(_STYLES)],
    }


def label(name: str) -> str:
    """A name as matplotlib draws it literally: no mathematics, and shown in legends."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _finite(value: float) -> float:
    """NaN, which matplotlib leaves out, for what has no place on an axis."""
    return value if math.isfinite(value) else math.nan


def _finish(axes, **labels) -> None:
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes) -> None:
    """A legend where there is something to name: a run without finite values has no line."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def bounds(parts: Sequence[Setting]) -> Figure:
    """L_k against k for every setting, mean over seeds; bars are the seed errors, if any."""
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.subplots()
    for index, setting in enumerate(parts):
        names = [n for n in comparison.bound_names(setting.runs) if n.startswith("iwae_")]
        items = [(1, comparison.estimate(setting, "elbo"))]
        items += [(int(name[5:]), comparison.estimate(setting, name)) for name in names]
        sizes, estimates = zip(*items, strict=True)
        axes.errorbar(
            sizes,
            [_finite(estimate.value) for estimate in estimates],
            yerr=[_finite(estimate.seed_se or 0.0) for estimate in estimates],
            marker="o",
            ms=4,
            capsize=3,
            label=label(setting.name),
            **_look(index),
        )
    _finish(axes, xscale="log", xlabel="samples k (k = 1: the ELBO)", ylabel="nats per example")
    axes.set_title("L_k against k; bars: one standard error over seeds", fontsize=11)
    _legend(axes)
    return figure


def gaps(parts: Sequence[Setting]) -> Figure:
    """L_K - ELBO of every setting as bars, with two errors."""
    figure = Figure(figsize=(6.8, 1.2 + 0.45 * len(parts)), layout="constrained")
    axes = figure.subplots()
    for index, setting in enumerate(parts):
        top = comparison.top_bound(comparison.bound_names(setting.runs))
        gap = comparison.gap(setting, top)
        color, width = _look(index)["color"], _finite(gap.value)
        error = 0.0 if math.isnan(gap.total_se) else 2 * gap.total_se
        axes.barh(index, width, xerr=error, color=color, height=0.6, capsize=3)
        text = f"{width:.2f}" if math.isfinite(width) else comparison.NOT_FINITE
        axes.text(width + error if math.isfinite(width) else 0.0, index, f"  {text}", va="center")
    axes.set_yticks(range(len(parts)), [label(setting.name) for setting in parts])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _finish(axes, xlabel="L_K - ELBO, nats per example (bars: 2 errors)")
    axes.set_title("How far the ELBO lies below L_K", fontsize=11)
    return figure


def training_curves(parts: Sequence[Setting]) -> Figure:
    """Validation ELBO and L_K of every run against the epoch; one line per seed."""
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name, title in zip(
        panels, ("validation/elbo", "validation/iwae"), ("ELBO", "L_k"), strict=True
    ):
        lowest = []
        for index, setting in enumerate(parts):
            for position, run in enumerate(setting.runs):
                points = [
                    (row["epoch"], row[name])
                    for row in run.metrics
                    if math.isfinite(row.get(name, math.nan))
                ]
                if points:
                    epochs, nats = zip(*points, strict=True)
                    name_once = label(setting.name) if position == 0 else None
                    axes.plot(epochs, nats, lw=0.9, label=name_once, **_look(index))
                    lowest.append(np.percentile(nats, 4))
        if lowest:
            axes.set_ylim(bottom=min(lowest))
            _legend(axes)
        _finish(axes, xlabel="epoch", ylabel="nats per example", title=f"validation {title}")
    return figure


def budget(parts: Sequence[Setting]) -> Figure:
    """Best validation L_k so far against decoder evaluations, and against seconds."""
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    titles = {
        "decoder_evaluations": "decoder evaluations in training",
        "seconds": "seconds of training",
    }
    for axes, (cost, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        lowest = []
        for index, setting in enumerate(parts):
            for position, run in enumerate(setting.runs):
                curve = budgets.curve(run)
                if len(curve.nats):
                    best = np.maximum.accumulate(curve.nats)
                    name_once = label(setting.name) if position == 0 else None
                    axes.plot(getattr(curve, cost), best, lw=0.9, label=name_once, **_look(index))
                    lowest.append(np.percentile(best, 4))
        if lowest:
            axes.set_ylim(bottom=min(lowest))
            _legend(axes)
        _finish(axes, xscale="log", xlabel=title, ylabel="best validation L_k so far, nats")
        low, high = axes.get_xlim()
        axes.xaxis.set_minor_formatter(NullFormatter())
        if high < 10 * low:  # no power of ten may be in sight
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    return figure


def samples(pictures: dict[str, np.ndarray], shape: tuple[int, ...]) -> Figure:
    """E[x|z] for the same draws z ~ p(z), one panel [n, D] per name."""
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, images) in zip(panels, pictures.items(), strict=False):
        side = int(np.ceil(np.sqrt(len(images))))
        axes.imshow(plots.image_grid(images, shape, side), interpolation="nearest")
        axes.set_title(label(name), fontsize=10)
    return figure


def extremes(found: Extremes, images: np.ndarray, names: tuple[str, str]) -> Figure:
    """The images [N, ...] on which the first of two settings is worst, and best; both bounds."""
    columns = 8
    blocks = {"worst": found.worst, "best": found.best}
    rows = {name: -(-len(indices) // columns) for name, indices in blocks.items()}
    figure = Figure(figsize=(9.6, 1.55 * sum(rows.values()) + 0.8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[*rows.values()])
    for part, (name, indices) in zip((above, below), blocks.items(), strict=True):
        title = f"{label(names[0])} is {name} against {label(names[1])}; above each: bounds of both"
        part.suptitle(title, fontsize=10)
        panels = np.atleast_1d(part.subplots(rows[name], columns)).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, index in zip(panels, indices, strict=False):
            image = images[index]
            picture = plots.image_grid(image[None], image.shape, 1)
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(f"{found.ours[index]:.1f} | {found.theirs[index]:.1f}", fontsize=7)
    return figure
