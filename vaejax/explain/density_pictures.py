"""Figures of `explain.density`: densities at four times, their distance, an animation."""

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vaejax.explain import draw
from vaejax.explain.result import Picture

_COLORMAP = "magma"
_FRAME_MS, _LAST_FRAME_MS = 350, 2500
_SEEN = 3.8  # half width of what is shown


def pictures(steps: tuple[int, ...], courses: dict[str, Any]) -> dict[str, Picture]:
    """`courses` is `density.Findings.courses`."""
    return {
        "densities": Picture(
            "True density (top) and p_theta(x) before, during and after training, for data of "
            "one dimension (left; grey: the truth) and of two (brighter: more density, one "
            "scale per column).",
            _stages(steps, courses),
        ),
        "distance": Picture(
            "Left: KL(p || p_theta) in nats against the training step. Right: E log p_theta(x) in "
            "nats rises to its ceiling, minus the entropy of the data (dashed).",
            _distance(steps, courses),
        ),
        "animation": Picture(
            "p_theta(x) (bottom) from the untrained decoder to the end of training, under the "
            "true density (top); the KL between them is in nats.",
            _animation(steps, courses),
        ),
    }


def _chosen(steps: tuple[int, ...]) -> tuple[int, int]:
    """Records at about 2% and 15% of training."""
    return tuple(
        int(np.argmin(np.abs(np.array(steps) - part * steps[-1]))) for part in (0.02, 0.15)
    )


def _image(axes: Any, course: Any, values: np.ndarray):
    side = len(course.line)
    limits = (course.line[0], course.line[-1]) * 2
    # The first axis of the grid is drawn to the right, the second upwards.
    return axes.imshow(
        values.reshape(side, side).T, origin="lower", extent=limits, cmap=_COLORMAP,
        vmin=0.0, vmax=1.1 * course.truth.max(), interpolation="bilinear",
    )  # fmt: skip


def _panel(axes: Any, course: Any, values: np.ndarray | None):
    """Draws the truth (None) or a model's density; returns what an animation must change."""
    axes.set(xlim=(-_SEEN, _SEEN))
    if course.size == 2:
        shown = _image(axes, course, course.truth if values is None else values)
        axes.set(ylim=(-_SEEN, _SEEN), xticks=(-3, 0, 3), yticks=(-3, 0, 3))
        axes.tick_params(labelsize=7)
        return shown
    axes.fill_between(course.line, course.truth, color=draw.DATA, alpha=0.35, lw=0)
    axes.set(ylim=(0.0, 1.25 * course.truth.max()), xticks=(-3, 0, 3))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    line = course.truth if values is None else values
    return axes.plot(course.line, line, color=draw.DATA if values is None else draw.ELBO)[0]


def _stages(steps: tuple[int, ...], courses: dict[str, Any]) -> Figure:
    records = (0, *_chosen(steps), len(steps) - 1)
    figure, axes = draw.panels(
        2.3 * len(courses) + 0.6, 11.0, 1 + len(records), len(courses), squeeze=False
    )
    for column, (name, course) in zip(axes.T, courses.items(), strict=True):
        _panel(column[0], course, None)
        column[0].set_title(f"{name}\nentropy {course.entropy:.2f} nats", fontsize=10)
        for panel, record in zip(column[1:], records, strict=True):
            _panel(panel, course, course.model[record])
            panel.set_title(f"KL = {course.kl[record]:.3f} nats", fontsize=9)
        column[-1].set_xlabel("x" if course.size == 1 else "$x_1$ (height: $x_2$)", fontsize=9)
    rows = ["true p(x)", *(_when(steps, record) for record in records)]
    for panel, title in zip(axes[:, 0], rows, strict=True):
        panel.set_ylabel(f"{title}\ndensity", fontsize=10)
    figure.suptitle("A VAE's density p_theta(x) before, during and after training", fontsize=12)
    return figure


def _when(steps: tuple[int, ...], record: int) -> str:
    return "p_theta untrained" if record == 0 else f"p_theta, step {steps[record]:,}"


def _distance(steps: tuple[int, ...], courses: dict[str, Any]) -> Figure:
    figure, (left, right) = draw.panels(9.6, 4.0, 1, 2)
    for color, (name, course) in zip(draw.SERIES, courses.items(), strict=False):
        left.plot(steps, course.kl, "o-", ms=3, color=color, label=f"{name}: {course.kl[-1]:.3f}")
        right.plot(steps, -course.entropy - course.kl, "o-", ms=3, color=color)
        right.axhline(-course.entropy, color=color, ls="--", lw=1)
    _name_ceilings(right, steps[-1], courses)
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(0, steps[-1])
    left.set_yscale("log")
    draw.finish(left, xlabel="training step", ylabel="nats", title="KL(p || p_theta)")
    left.legend(frameon=False, fontsize=9, title="at the end, nats", loc="lower left")
    title = "E log p_theta(x); dashed: minus the entropy"
    draw.finish(right, xlabel="training step", ylabel="nats", title=title)
    return figure


def _name_ceilings(axes: Any, right_end: float, courses: dict[str, Any]) -> None:
    """Names beside the dashed lines, pushed apart where the lines are close."""
    colors = dict(zip(courses, draw.SERIES, strict=False))
    least = 0.055 * float(np.ptp(axes.get_ylim()))
    below = np.inf
    for name in sorted(courses, key=lambda name: courses[name].entropy):
        below = min(-courses[name].entropy, below - least)
        draw.label(axes, right_end, below, name, colors[name], annotation_clip=False)


def _animation(steps: tuple[int, ...], courses: dict[str, Any]) -> bytes:
    """A GIF, one frame per record."""
    figure, axes = draw.panels(2.0 * len(courses) + 0.4, 4.6, 2, len(courses), squeeze=False)
    canvas = FigureCanvasAgg(figure)
    moving = []
    for (upper, lower), (name, course) in zip(axes.T, courses.items(), strict=True):
        _panel(upper, course, None)
        upper.set_title(f"true: {name}", fontsize=9)
        moving.append(_panel(lower, course, course.model[0]))
    frames = []
    for record, step in enumerate(steps):
        figure.suptitle(f"p_theta(x) after {step:,} training steps", fontsize=11)
        for panel, artist, course in zip(axes[1], moving, courses.values(), strict=True):
            values = course.model[record]
            if course.size == 1:
                artist.set_ydata(values)
            else:
                artist.set_data(values.reshape(len(course.line), -1).T)
            panel.set_title(f"model: KL {course.kl[record]:.2f}", fontsize=9)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        frames.append(Image.fromarray(pixels.copy()).quantize(64))
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return out.getvalue()
