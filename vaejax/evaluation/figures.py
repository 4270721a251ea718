"""Figures. Each function makes one matplotlib Figure from arrays and touches no file."""

import functools
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaejax.evaluation import means
from vaejax.evaluation.results import Result
from vaejax.evaluation.surgery import Rates

_BLUE, _ORANGE, _GREY, _GREEN = "#1f5fa8", "#d9722e", "#777777", "#3a8f5c"


def bounds_against_samples(result: Result) -> Figure:
    """L_k against k (log axis), a band of two Monte-Carlo errors, the ELBO as a line."""
    estimates = result.estimates
    sizes = sorted(int(name[5:]) for name in estimates if name.startswith("iwae_"))
    rows = [estimates[f"iwae_{k}"] for k in sizes]
    values = np.array([row.value for row in rows])
    errors = 2 * np.nan_to_num([row.mc_se for row in rows])
    in_bits = result.protocol.num_dims is not None
    # Fixed margins, here and below: each member of a sweep has its figures, and a layout that
    # fits itself takes a third of their time.
    figure = Figure(figsize=(6.4, 4.2))
    left, right = (0.16, 0.87) if in_bits else (0.13, 0.97)  # nats of masses have more digits
    figure.subplots_adjust(left=left, right=right, top=0.925, bottom=0.125)
    axes = figure.subplots()
    axes.fill_between(sizes, values - errors, values + errors, color=_BLUE, alpha=0.25, lw=0)
    axes.plot(sizes, values, "o-", color=_BLUE, label="L_k, band: 2 Monte-Carlo errors")
    lines = {"ELBO": ("elbo", _ORANGE, "--"), "exact log p(x)": ("log_marginal", "black", ":")}
    for label, (name, color, style) in lines.items():
        if name in estimates and np.isfinite(estimates[name].value):
            value = estimates[name].value
            axes.axhline(value, color=color, ls=style, label=f"{label} = {value:.2f}")
    if np.isfinite(values[-1]):
        last, offset = (sizes[-1], values[-1]), (-6, 10)
        text = f"{values[-1]:.2f}"
        axes.annotate(text, last, offset, ha="right", textcoords="offset points", color=_BLUE)
    axes.set(xscale="log", xlabel="samples k", ylabel="nats per example")
    protocol = result.protocol
    title = f"{protocol.dataset} {protocol.split}, {protocol.num_examples:,} examples"
    axes.set_title(f"Bounds on log p(x): {title}", parse_math=False)
    axes.margins(y=0.12)  # room for the number above the last point
    axes.legend(frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    if in_bits:
        to_bits = functools.partial(means.bits_per_dim, num_dims=protocol.num_dims)
        unit = to_bits(1.0)
        side = axes.secondary_yaxis("right", functions=(to_bits, lambda bits: bits / unit))
        side.set_ylabel("bits per dimension")
    return figure


def image_grid(images: np.ndarray, shape: tuple[int, ...], columns: int) -> np.ndarray:
    """Tiles [N, D] values in [0, 1] into one uint8 picture [h, w, 3], light grey seams."""
    height, width, channels = (*shape, 1)[:3]
    rows = -(-len(images) // columns)
    tiles = np.clip(np.asarray(images), 0.0, 1.0).reshape(len(images), height, width, channels)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 0.6)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = tile[..., : 3 if channels >= 3 else 1]
    return (255 * canvas).round().astype(np.uint8)


def _picture(axes: Any, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def grid(images: np.ndarray, shape: tuple[int, ...], columns: int, title: str) -> Figure:
    """Any pictures [N, ...] in [0, 1], row by row, under a title."""
    picture = image_grid(images, shape, columns)
    width, height, above = 6.0, 6.0 * picture.shape[0] / picture.shape[1], 0.35
    figure = Figure(figsize=(width, height + above))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=height / (height + above))
    _picture(figure.subplots(), picture, title)
    return figure


def samples(images: np.ndarray, shape: tuple[int, ...]) -> Figure:
    """E[x|z] for z from the prior."""
    columns = int(np.ceil(np.sqrt(len(images))))
    figure = Figure(figsize=(4.4, 4.7))
    figure.subplots_adjust(left=0.03, right=0.97, top=0.93, bottom=0.02)
    _picture(figure.subplots(), image_grid(images, shape, columns), "E[x|z], z from the prior")
    return figure


def reconstructions(x: np.ndarray, means: np.ndarray, shape: tuple[int, ...]) -> Figure:
    """Examples above their reconstructions E[x|z], z ~ q(z|x)."""
    figure = Figure(figsize=(7.2, 1.7))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.84, bottom=0.02)
    grid = image_grid(np.concatenate([x, means]), shape, len(x))
    _picture(figure.subplots(), grid, "examples (top) and E[x|z], z from q(z|x) (bottom)")
    return figure


def training_curves(rows: list[dict[str, Any]]) -> Figure:
    """ELBO and L_K in training and validation against the epoch, with their gap apart."""
    figure = Figure(figsize=(8.4, 3.6))
    figure.subplots_adjust(left=0.1, right=0.985, top=0.91, bottom=0.14, wspace=0.25)
    left, right = figure.subplots(1, 2)
    curves = {
        "train ELBO": ("train/elbo", _ORANGE, "-"),
        "validation ELBO": ("validation/elbo", _ORANGE, "--"),
        "validation L_K": ("validation/iwae", _BLUE, "--"),
    }
    for label, (name, color, style) in curves.items():
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            left.plot(*zip(*points, strict=True), style, color=color, label=label, lw=1.2)
    tail = [row[name] for row in rows for name, _, _ in curves.values() if name in row]
    if tail:
        low, high = np.percentile(tail, 5), max(tail)
        left.set_ylim(low - 0.1 * (high - low + 1), high + 0.15 * (high - low + 1))
    for label, name, color in (
        ("KL", "train/kl", _GREY),
        ("reconstruction", "train/reconstruction", _BLUE),
    ):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            epochs, values = zip(*points, strict=True)
            right.plot(
                epochs,
                np.abs(values),
                color=color,
                lw=1.2,
                label=label if label == "KL" else "minus reconstruction",
            )
    for axes, title in ((left, "bounds"), (right, "the two parts of the train ELBO")):
        axes.set(xlabel="epoch", ylabel="nats per example", title=title)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def unit_activity(activity: list[np.ndarray], threshold: float) -> Figure:
    """Histogram of log10 Var_x(E_q[u]) per stochastic layer, and the line of active units."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    floor = 1e-6
    layers = [np.log10(np.maximum(layer, floor)) for layer in activity]
    names = [
        f"layer {number}: {int((values > np.log10(threshold)).sum())} of {len(values)} active"
        for number, values in enumerate(layers, 1)
    ]
    bins = np.linspace(np.log10(floor), max(1.0, *(values.max() for values in layers)), 36)
    colors = [_BLUE, _GREEN, _GREY][: len(layers)] if len(layers) <= 3 else None
    axes.hist(layers, bins=bins, label=names, color=colors, stacked=True)
    axes.axvline(np.log10(threshold), color=_ORANGE, ls="--", label=f"threshold {threshold}")
    axes.set(xlabel="log10 of the variance of the posterior mean over examples", ylabel="units")
    axes.set_title("active latent units", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def rates(found: Rates) -> Figure:
    """The two parts of the rate as one bar; below it the rate of each unit, the largest first."""
    units = found.unit_rates
    figure = Figure(figsize=(6.4, 1.6 if units is None else 4.6), layout="constrained")
    heights = [1] if units is None else [1, 3]
    panels = np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights))
    start, parts = 0.0, {"mutual_information": _BLUE, "marginal_kl": _ORANGE}
    for name, color in parts.items():
        value = np.nan_to_num(found.estimates[name].value)
        label = f"{name.replace('_', ' ')} {value:.2f}"
        panels[0].barh(0, value, left=start, color=color, label=label)
        start += value
    panels[0].axvline(found.log_num_examples, color=_GREY, ls=":", label="log N")
    panels[0].set_yticks([])
    panels[0].set_xlabel("nats per example")
    panels[0].legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    if units is not None:
        _unit_bars(panels[1], found)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _unit_bars(axes: Any, found: Rates) -> None:
    order = np.argsort(found.unit_rates)[::-1]
    heights, errors = np.array(found.unit_rates)[order], np.array(found.unit_data_se)[order]
    places = np.arange(1, len(order) + 1)
    axes.bar(places, heights, yerr=2 * np.nan_to_num(errors), color=_BLUE, width=0.8)
    axes.axvline(found.units_for_99 + 0.5, color=_ORANGE, ls="--")
    title = f"{found.units_for_99} of {len(order)} units carry 99% of the rate (bars: 2 errors)"
    axes.set(xlabel="latent unit, the largest rate first", ylabel="nats per example")
    axes.set_title(title, fontsize=10)
