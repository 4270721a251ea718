"""Figures of `explain.reconstruction`: the numbers, and what the models draw."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vaejax.evaluation import figures as plots
from vaejax.evaluation.means import ExampleMean
from vaejax.explain import draw
from vaejax.explain.result import Picture


def pictures(findings: Any, differences: list[ExampleMean]) -> dict[str, Picture]:
    """`findings` is `reconstruction.Findings`, `differences` its log p(x) minus beta = 1's."""
    return {
        "nats": Picture(
            "Per beta, in nats per test digit: how well the model reconstructs (left), how far "
            "its codes lie from the prior (middle), and its log p(x) against that of beta = 1 "
            "(right; bars: two paired standard errors).",
            _nats(findings, differences),
        ),
        "images": Picture(
            "Test digits and their reconstructions by each model (left), and what the same "
            "models draw from the prior (right).",
            _pixels(findings),
        ),
    }


def _bars(axes: Any, values: np.ndarray, names: list[str], color: str, form: str, **options):
    positions = np.arange(len(values))
    axes.barh(positions, values, color=color, height=0.6, **options)
    for position, value in zip(positions, values, strict=True):
        side = "left" if value >= 0 else "right"
        shift = (4, 0) if value >= 0 else (-4, 0)
        draw.label(axes, value, position, format(value, form), color, xytext=shift, ha=side)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()


def _nats(findings: Any, differences: list[ExampleMean]) -> Figure:
    figure, (left, middle, right) = draw.panels(11.5, 3.2, 1, 3)
    names = [f"beta = {beta:g}" for beta in findings.betas]
    reconstruction = findings.reconstruction.mean(axis=1)
    _bars(left, reconstruction, names, draw.ELBO, ".1f")
    left.set_xlim(1.25 * reconstruction.min(), 0)
    draw.finish(left, xlabel="nats (further right: better)", title="reconstruction E_q[log p(x|z)]")
    _bars(middle, findings.kl.mean(axis=1), names, draw.KL, ".1f")
    middle.set_xlim(0, 1.25 * findings.kl.mean(axis=1).max())
    draw.finish(middle, xlabel="nats", title="KL(q(z|x) || p(z))")
    shift = findings.log_marginal.mean(axis=1)
    for position, (difference, value) in enumerate(zip(differences, shift, strict=True)):
        right.errorbar(
            difference.value, position, xerr=2 * difference.data_se, fmt="o", capsize=4,
            color=draw.LOG_MARGINAL,
        )  # fmt: skip
        right.annotate(
            f"log p(x) = {value:.2f}", (difference.value, position), xytext=(0, 6),
            textcoords="offset points", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    pixels = findings.independent.mean() - shift[findings.betas.index(1.0)]
    right.axvline(pixels, color=draw.DATA, ls="--", lw=1)
    right.text(pixels, -0.85, " independent pixels", color=draw.DATA, fontsize=8, va="center")
    right.axvline(0.0, color=draw.DATA, lw=0.8)
    right.set_yticks(range(len(names)), names)
    right.set_ylim(len(names) - 0.5, -1.1)
    low = min(difference.value - 2 * difference.data_se for difference in differences)
    right.set_xlim(min(low, pixels) - 1.0, 2.0)
    draw.finish(
        right, xlabel="nats (further right: better)", title="log p(x) minus that of beta = 1"
    )
    return figure


def _pixels(findings: Any) -> Figure:
    count = len(findings.betas)
    figure, axes = draw.panels(9.6, 1.5 * (1 + count), 1 + count, 2)
    across = findings.x.shape[0]

    def show(panel, images, columns, title):
        grid = plots.image_grid(images, images.shape[1:], columns)
        panel.imshow(grid, interpolation="nearest")
        panel.set_title(title, fontsize=9)

    show(axes[0, 0], findings.x, across, "test digits (binary)")
    axes[0, 1].text(0.5, 0.4, "new: E[x|z] for z drawn from the prior", ha="center", fontsize=10)
    for row, beta, rebuilt, drawn, nats, log_marginal in zip(
        axes[1:],
        findings.betas,
        findings.reconstructions,
        findings.samples,
        findings.reconstruction.mean(axis=1),
        findings.log_marginal.mean(axis=1),
        strict=True,
    ):
        show(row[0], rebuilt, across, f"beta = {beta:g}: reconstruction {nats:.1f} nats")
        show(row[1], drawn, across, f"beta = {beta:g}: log p(x) = {log_marginal:.1f} nats")
    for panel in axes.ravel():
        panel.set_axis_off()
    return figure
