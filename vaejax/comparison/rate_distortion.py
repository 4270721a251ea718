"""Runs in the plane of rate and distortion (Alemi et al. 2018), e.g. a sweep of beta."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from vaejax.comparison import figures, protocol, read, report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Difference, Setting
from vaejax.errors import UserError
from vaejax.evaluation import means, terminal
from vaejax.runs import rate_distortion as decoders
from vaejax.runs.rate_distortion import DecoderCurve
from vaejax.storage import files

JSON, FIGURE = "rate_distortion.json", "rate_distortion.png"


class Point(NamedTuple):
    """One setting: E KL(q(z|x) || p(z)) and -E log p(x|z) from the same samples, nats.

    Attributes:
      name: of the setting.
      seeds: how many runs it is the mean of.
      beta: of their objective.
      rate, distortion, elbo: with errors; -(rate + distortion) is the ELBO.
    """

    name: str
    seeds: int
    beta: float
    rate: Difference
    distortion: Difference
    elbo: Difference


class Plane(NamedTuple):
    """What the command finds.

    Attributes:
      points: by rate.
      best: the one of the highest ELBO; the line of slope -1 goes through it.
      curve: of one decoder, where it was asked for.
      title: on what all were evaluated.
    """

    points: list[Point]
    best: Point
    curve: DecoderCurve | None
    title: str


def point(setting: Setting) -> Point:
    """Where the setting lies, a mean over its seeds. Raises UserError: it was not measured."""
    for run in setting.runs:
        for name in ("kl", "reconstruction"):
            if name not in run.values:
                raise UserError(f"{run.name}: its evaluation holds no {name}; evaluate it again")
    minus = comparison.estimate(setting, "reconstruction")
    return Point(
        setting.name,
        len(setting.runs),
        float(setting.runs[0].config["objective"]["beta"]),
        comparison.estimate(setting, "kl"),
        minus._replace(value=-minus.value),
        comparison.estimate(setting, "elbo"),
    )


def plane(parts: Sequence[Setting], curve: DecoderCurve | None) -> Plane:
    """All settings by rate. Raises UserError where none has a finite ELBO."""
    points = sorted(map(point, parts), key=lambda one: one.rate.value)
    known = [one for one in points if np.isfinite(one.elbo.value)]
    if not known:
        raise UserError("RUN: no run has a finite ELBO: there is no line to draw")
    best = max(known, key=lambda one: one.elbo.value)
    return Plane(points, best, curve, report.title(report.Comparable(list(parts), None)))


def draw(
    paths: Sequence[str],
    *,
    decoder: pathlib.Path | None,
    num_examples: int | None,
    overrides: Mapping[str, Any],
    out: pathlib.Path,
    console: Console,
) -> Plane:
    """Reads the evaluations of the runs at `paths` (a sweep stands for its members), adds the
    curve of the decoder of one run, prints the table, writes rate_distortion.json and .png.

    Raises:
      UserError: as `compare` does, or as `runs.rate_distortion.decoder_curve` does, or budgets
        without a decoder.
    """
    given = [f"--config.{path}" for path in overrides]
    given += [] if num_examples is None else ["--num_examples"]
    if decoder is None and given:
        raise UserError(f"{given[0]}: has no effect without --decoder")
    folders, failed = read.expand(paths, console)
    names = read.names(folders)
    found = [read.run(folder, name) for folder, name in zip(folders, names, strict=True)]
    protocol.check_distinct(found)
    protocol.check(found)
    files.require_writable(out, (JSON, FIGURE))
    curve = None
    if decoder is not None:
        curve = decoders.decoder_curve(
            decoder,
            data_sha256=str(protocol.agreed(found[0], "data_sha256")),
            num_examples=num_examples,
            overrides=overrides,
            console=console,
        )
    result = plane(protocol.settings(found, failed), curve)
    picture = io.BytesIO()
    figure(result).savefig(picture, format="png", dpi=150)
    content = {JSON: files.json_text(as_json(result)).encode(), FIGURE: picture.getvalue()}
    writers = {name: lambda file, data=data: file.write(data) for name, data in content.items()}
    files.publish(out, writers)
    console.print(table(result, encoding=console.encoding))
    return result


def as_json(found: Plane) -> dict[str, Any]:
    """The numbers of the figure."""
    rows = []
    for one in found.points:
        row = {"setting": one.name, "seeds": one.seeds, "beta": one.beta}
        for name in ("rate", "distortion", "elbo"):
            value: Difference = getattr(one, name)
            row |= {name: value.value, f"{name}_error": value.total_se}
        rows.append(row)
    shown = {"evaluated_on": found.title, "best_elbo": found.best.name, "points": rows}
    if found.curve is None:
        return shown
    own = found.curve
    sides = {"rate": own.rate, "distortion": own.distortion}
    curve = {"temperatures": own.temperatures, "num_examples": own.num_examples}
    curve |= {name: [mean.value for mean in side] for name, side in sides.items()}
    curve |= {f"{name}_error": [mean.data_se for mean in side] for name, side in sides.items()}
    return shown | {"decoder": {"run": str(own.workdir)} | curve}


def table(found: Plane, *, encoding: str) -> Table:
    """One row for each setting, by rate."""
    shown = Table(
        title=terminal.literal(found.title, encoding),
        caption=terminal.literal(
            "nats per example; ± one standard error; above: how far the point lies above the line "
            f"of slope -1 through the best ELBO, that of {found.best.name}",
            encoding,
        ),
    )
    for index, name in enumerate(("setting", "seeds", "beta", "rate", "distortion", "above")):
        shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for one in found.points:
        above = means.number(found.best.elbo.value - one.elbo.value)
        texts = [one.name, str(one.seeds), f"{one.beta:g}", report.number(one.rate)]
        texts += [report.number(one.distortion), "" if above is None else f"{above:.3f}"]
        shown.add_row(*[terminal.literal(text, encoding) for text in texts])
    return shown


def _labels(points: Sequence[Point]) -> dict[tuple[float, float], list[str]]:
    """Places of labels and the names there: settings that fall together share one."""
    apart = 0.02 * max([np.ptp([one.rate.value for one in points]), 1e-9]) if points else 0.0
    found: dict[tuple[float, float], list[str]] = {}
    for one in points:
        here = (one.rate.value, one.distortion.value)
        near = (at for at in found if max(abs(at[0] - here[0]), abs(at[1] - here[1])) < apart)
        found.setdefault(next(near, here), []).append(one.name)
    return found


def figure(found: Plane) -> Figure:
    """Distortion against rate, a point for each setting, and the line of slope -1."""
    drawn = Figure(figsize=(6.8, 4.8), layout="constrained")
    axes = drawn.subplots()
    points = [one for one in found.points if np.isfinite(one.elbo.value)]
    rate, distortion = [
        [getattr(one, name).value for one in points] for name in ("rate", "distortion")
    ]
    errors = [
        [2 * getattr(one, name).total_se for one in points] for name in ("rate", "distortion")
    ]
    color = "#0072B2"
    axes.errorbar(
        rate,
        distortion,
        xerr=errors[0],
        yerr=errors[1],
        fmt="o-",
        ms=4,
        lw=0.8,
        color=color,
        label="runs; bars: 2 errors",
    )
    for where, names in _labels(points).items():
        text = f" {', '.join(map(figures.label, names))}"
        axes.annotate(text, where, (4, 4), textcoords="offset points", fontsize=7)
    top = max([*rate, 0.0])
    if found.curve is not None:
        own = found.curve
        sides = [[mean.value for mean in side] for side in (own.rate, own.distortion)]
        name = figures.label(own.workdir.name)
        text = f"decoder of {name} ({own.num_examples} examples), AIS: on or below this line"
        axes.plot(*sides, color="#D55E00", label=text)
        top = max(top, *sides[0])
    ends = np.array([0.0, 1.05 * top + 1e-6])
    text = f"ELBO = {found.best.elbo.value:.2f} ({figures.label(found.best.name)})"
    axes.plot(ends, -found.best.elbo.value - ends, color="black", ls=":", label=text)
    axes.set(xlabel="rate E KL(q(z|x) || p(z)), nats", ylabel="distortion -E log p(x|z), nats")
    axes.set_title(found.title, fontsize=10, parse_math=False)
    axes.margins(x=0.1)
    # The line goes on far below every point: it need not be followed there.
    lowest, highest = min([*distortion, found.best.distortion.value]), axes.get_ylim()[1]
    axes.set_ylim(lowest - 0.2 * (highest - lowest), highest)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
