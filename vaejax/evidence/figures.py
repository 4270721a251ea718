"""Figures about evidence. Each function makes one matplotlib Figure and touches no file."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_BLUE, _ORANGE = "#1f5fa8", "#d9722e"


def _axes(width: float = 5.6, height: float = 3.4):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def pareto_k(k_hats: np.ndarray, threshold: float, num_samples: int) -> Figure:
    """Histogram of k-hat over examples, the threshold, and the share above it."""
    figure, axes = _axes()
    k_hats = np.asarray(k_hats)[np.isfinite(k_hats)]
    axes.hist(k_hats, bins=np.linspace(min(-0.2, *k_hats), max(1.2, *k_hats), 36), color=_BLUE)
    bad = float(np.mean(k_hats > threshold))
    axes.axvline(threshold, color=_ORANGE, ls="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="Pareto k-hat of the importance weights", ylabel="examples")
    axes.set_title(f"{bad:.0%} of examples above: do not trust K = {num_samples:,}", fontsize=11)
    axes.legend(frameon=False)
    return figure


def gap_bars(gaps: Any) -> Figure:
    """Stacked bars: log p(x) - ELBO as approximation plus amortization gap, by family of q*.

    `gaps` is an `evaluation.inference_gaps.Gaps`.
    """
    families = gaps.by_family()
    figure, axes = _axes(height=1.4 + len(families))
    for position, parts in enumerate(families.values()):
        bottom = 0.0
        for name, color, end in (
            ("approximation", _BLUE, "left"),
            ("amortization", _ORANGE, "right"),
        ):
            part, label = getattr(parts, name), f"{name} gap" if position == 0 else None
            value = part.value if math.isfinite(part.value) else 0.0
            error = 2 * part.mc_se if math.isfinite(part.mc_se) else 0.0
            axes.barh(position, value, left=bottom, color=color, height=0.55, label=label)
            # Above the bar and from its outer end: a narrow part has no room for its number.
            outer = bottom if end == "left" else bottom + value
            axes.text(outer, position - 0.36, f"{part.value:.3f}", ha=end, color=color)
            bottom += value
            axes.errorbar(bottom, position, xerr=error, color="black", capsize=3, lw=1)
    axes.set_yticks(range(len(families)), [f"q*: {name}" for name in families])
    axes.invert_yaxis()
    axes.set(xlabel="nats per example (bars: 2 Monte-Carlo errors)")
    axes.set_ylim(len(families) - 0.1, -0.6)
    axes.set_title(f"log p(x) - ELBO, log p(x) from {gaps.log_marginal_from}", fontsize=11)
    axes.legend(frameon=False, ncols=2, loc="lower right")
    return figure


def annealing(temperatures: np.ndarray, step_sizes: np.ndarray, acceptance: np.ndarray) -> Figure:
    """Acceptance of the scored run, step size and temperature along the chain."""
    return along_chain(
        [
            ("acceptance", acceptance, (0.0, 1.0)),
            ("step size", step_sizes, (0.0, None)),
            ("temperature b", temperatures[1:], (0.0, 1.0)),
        ]
    )


def along_chain(panels: Sequence[tuple[str, np.ndarray, tuple[float, float | None]]]) -> Figure:
    """A panel (title, values, limits) for each number of the steps of a chain."""
    figure = Figure(figsize=(1.0 + 2.2 * len(panels), 2.8), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, values, limits) in zip(row, panels, strict=True):
        axes.plot(np.arange(1, 1 + len(values)), values, color=_BLUE, lw=1.2)
        axes.set(xlabel="step", title=title, ylim=limits)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
