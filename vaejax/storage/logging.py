"""What a run says while it works: metrics on disk, a progress bar, a line now and then."""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vaejax.storage import workdir as workdir_lib

_SECONDS_BETWEEN_LINES = 10.0


class MetricsWriter(NamedTuple):
    """Where numbers of a run go.

    Attributes:
      scalars: `(step, values)`: a row of metrics.jsonl, and scalars for TensorBoard.
      image: `(step, name, picture [H, W, 3] uint8)`, for TensorBoard.
    """

    scalars: Callable[[int, dict[str, Any]], None]
    image: Callable[[int, str, np.ndarray], None]


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a half-written last line is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


@contextlib.contextmanager
def metrics_writer(workdir: pathlib.Path, *, step: int) -> Iterator[MetricsWriter]:
    """Appends to the metrics of `workdir`; rows after `step` are dropped first, so that a
    resumed run leaves the file of one that never stopped. Raises UserError on a full disk.
    """
    from tensorboardX import SummaryWriter

    path = workdir / workdir_lib.METRICS
    kept = "".join(json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step)
    workdir_lib.write_atomically(path, lambda handle: handle.write(kept.encode()))

    def scalars(at: int, values: dict[str, Any]) -> None:
        rows.write(json.dumps({"step": at, **values}) + "\n")
        rows.flush()
        for name, value in values.items():
            board.add_scalar(name, value, at)

    try:
        with (
            path.open("a") as rows,
            SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1) as board,
        ):
            yield MetricsWriter(
                scalars, lambda at, name, x: board.add_image(name, x, at, dataformats="HWC")
            )
    except OSError as error:
        raise workdir_lib.cannot_write(path, error) from error


@contextlib.contextmanager
def progress(
    console: Console, title: str, *, done: float, total: float, unit: str
) -> Iterator[Callable[[float, str], None]]:
    """Yields `update(completed, text)`: a live bar with rate and time left on a terminal,
    a line every ten seconds elsewhere. `done` was completed before it began.
    """
    begun = said = time.monotonic()
    live = console.is_terminal
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task(title, total=total, completed=done, rate="", text="")

        def update(completed: float, text: str) -> None:
            nonlocal said
            now = time.monotonic()
            rate = max(completed - done, 1e-9) / max(now - begun, 1e-9)
            pace = f"{rate:,.0f} {unit}/s"
            bar.update(task, completed=completed, rate=pace, text=text)
            if not live and now - said > _SECONDS_BETWEEN_LINES:
                said, left = now, (total - completed) / rate
                console.print(
                    f"{title} {completed / total:4.0%}  {pace}  {left:,.0f} s left  {text}"
                )

        yield update
