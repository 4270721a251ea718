"""Figures of the gradient laboratory. Each function makes one Figure and touches no file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLORS = ("#1f5fa8", "#d9722e", "#3a8f5c", "#9b59a8", "#777777", "#b8860b", "#17a2b8")
_TITLES = {"phi": "phi, the encoder's parameters", "theta": "theta, the decoder's parameters"}


def signal_to_noise(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Signal-to-noise ratio against K, log axes, phi and theta apart, one line per pair."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = list(dict.fromkeys(row["pair"] for row in rows))
    for axes, group in zip(panels, _TITLES, strict=True):
        for label, color in zip(labels, _cycle(len(labels)), strict=True):
            own = [row for row in rows if row["pair"] == label and row[group]["snr"] > 0]
            sizes = np.array([row["num_samples"] for row in own])
            snrs = np.array([row[group]["snr"] for row in own])
            errors = 2 * np.array([row[group]["snr_se"] for row in own])
            low = np.minimum(errors, 0.9 * snrs)
            biased = any(row[name]["biased"] for row in own for name in _TITLES)
            name = f"{label} (biased)" if biased else label
            axes.errorbar(sizes, snrs, (low, errors), fmt="o-", color=color, ms=4, label=name)
        _guide(axes, group)
        axes.set(xscale="log", yscale="log", xlabel="samples K", title=_TITLES[group])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("signal-to-noise ratio of one gradient")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=3, fontsize=9)
    figure.suptitle(f"{title} (bars: 2 standard errors)", fontsize=11)
    return figure


def _cycle(count: int) -> list[str]:
    return [_COLORS[index % len(_COLORS)] for index in range(count)]


def _guide(axes, group: str) -> None:
    """A dotted line of the slope that theory gives pathwise L_K (Rainforth et al. 2018)."""
    power = {"phi": -0.5, "theta": 0.5}[group]
    lines = [line for line in axes.containers if line.get_label() == "iwae:pathwise"]
    if not lines:
        return
    sizes, snrs = lines[0].lines[0].get_data()
    if len(sizes) > 1:
        middle = len(sizes) // 2
        guide = snrs[middle] * (np.asarray(sizes) / sizes[middle]) ** power
        axes.plot(sizes, 0.75 * guide, ":", color="black", lw=1)
        axes.annotate(
            f"K^{power:+.1f}", (sizes[-1], 0.75 * guide[-1]), (3, -8), textcoords="offset points"
        )
