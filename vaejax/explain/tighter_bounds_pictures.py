"""Figures of `explain.tighter_bounds`: L_k against k, and the models with their gaps."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from vaejax.evaluation.means import ExampleMean
from vaejax.explain import draw
from vaejax.explain.result import Picture


def pictures(
    findings: Any, parts: list[dict[str, ExampleMean]], changes: dict[str, list[ExampleMean]]
) -> dict[str, Picture]:
    """`findings` is `tighter_bounds.Findings`; `changes` are differences to k = 1."""
    return {
        "ladder": Picture(
            "L_k in nats per test digit against the number k of samples, for each of the three "
            "models, and the log p(x) of each by annealed importance sampling (dotted).",
            _ladder(findings),
        ),
        "training": Picture(
            "Left: log p(x) and ELBO of the models trained with more samples minus those with "
            "k = 1, in nats (bars: two paired standard errors). Right: log p(x) - ELBO of each "
            "model, split into what the best diagonal normal q lacks and what the encoder lacks.",
            _training(findings, parts, changes),
        ),
    }


def _ladder(findings: Any) -> Figure:
    figure, axes = draw.panels(7.4, 4.2, 1, 1)
    for color, size, bounds, top in zip(
        draw.SERIES, findings.trained_with, findings.bounds, findings.log_marginal, strict=False
    ):
        values = bounds.mean(axis=1)
        axes.plot(findings.sizes, values, "o-", color=color, label=f"trained with k = {size}")
        axes.axhline(top.mean(), color=color, ls=":", lw=1.2)
        draw.label(
            axes, findings.sizes[-1], top.mean(), f"log p(x) {top.mean():.2f}", color,
            xytext=(14, 0), annotation_clip=False,
        )  # fmt: skip
        draw.label(axes, 1, values[0], f"ELBO {values[0]:.2f}", color, xytext=(-6, 0), ha="right")
    axes.set_xscale("log")
    axes.set_xlim(0.12, findings.sizes[-1] * 1.4)
    axes.set_xticks(findings.sizes, [f"{size:,}" for size in findings.sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    draw.finish(
        axes,
        xlabel="samples k in the bound (k = 1: the ELBO)",
        ylabel="nats per test digit",
        title="L_k rises with k towards log p(x) (dotted)",
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _training(
    findings: Any, parts: list[dict[str, ExampleMean]], changes: dict[str, list[ExampleMean]]
) -> Figure:
    figure, (left, right) = draw.panels(10.0, 3.8, 1, 2)
    positions = np.arange(len(parts))
    names = [f"k = {size}" for size in findings.trained_with]
    colors = {"log p(x)": draw.LOG_MARGINAL, "ELBO": draw.ELBO}
    for shift, (name, row) in zip((-0.08, 0.08), changes.items(), strict=True):
        values, errors = [c.value for c in row], [2 * c.data_se for c in row]
        left.errorbar(
            positions + shift, values, yerr=errors, fmt="o-", capsize=4, color=colors[name],
            label=name,
        )  # fmt: skip
        place = {"xytext": (10, 9 if name == "log p(x)" else -9)}
        for position, value in list(zip(positions, values, strict=True))[1:]:
            draw.label(left, position + shift, value, f"{value:+.2f}", colors[name], **place)
    left.axhline(0.0, color=draw.DATA, lw=0.8)
    left.set_xlim(-0.4, len(parts) - 0.4)
    left.set_xticks(positions, names)
    draw.finish(
        left, xlabel="samples in training", ylabel="nats, minus k = 1",
        title="log p(x) and ELBO after training with k samples",
    )  # fmt: skip
    bottom = np.zeros(len(parts))
    labels = {
        "approximation": ("log p(x) - ELBO of the best q", draw.BOUND),
        "amortization": ("best q - encoder's q", draw.KL),
    }
    for name, (text, color) in labels.items():
        values = np.array([part[name].value for part in parts])
        right.bar(positions, values, bottom=bottom, color=color, width=0.55, label=text)
        for position, low, value in zip(positions, bottom, values, strict=True):
            right.text(
                position + 0.31, low + value / 2, f"{value:.2f}", va="center", fontsize=9,
                color=color,
            )  # fmt: skip
        bottom += values
    total = [part["inference"] for part in parts]
    right.errorbar(
        positions, bottom, yerr=[2 * gap.data_se for gap in total], fmt="none", color="black",
        capsize=4,
    )  # fmt: skip
    right.set_xlim(-0.5, len(parts) - 0.2)
    right.set_xticks(positions, names)
    draw.finish(
        right,
        xlabel="samples in training",
        ylabel="nats",
        title="log p(x) - ELBO: how far q is off",
    )
    right.legend(frameon=False, fontsize=9, loc="upper left")
    return figure
