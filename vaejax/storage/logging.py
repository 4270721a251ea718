"""What a run says while it works: metrics on disk, a progress bar, a line now and then."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from vaejax import hosts
from vaejax.errors import UserError
from vaejax.storage import files
from vaejax.storage.json_files import read_metrics as read_metrics  # callers know it from here

_SECONDS_BETWEEN_LINES = 10.0


class MetricsWriter(NamedTuple):
    """Where numbers of a run go.

    Attributes:
      scalars: `(step, values)`: a row of metrics.jsonl, and scalars for TensorBoard.
      image: `(step, name, picture [H, W, 3] uint8)`, for TensorBoard.
    """

    scalars: Callable[[int, dict[str, Any]], None]
    image: Callable[[int, str, np.ndarray], None]


@contextlib.contextmanager
def metrics_writer(workdir: pathlib.Path, *, step: int) -> Iterator[MetricsWriter]:
    """Appends to the metrics of `workdir`; rows after `step` are dropped first, so that a
    resumed run leaves the file of one that never stopped.

    Numbers that are not finite are null in metrics.jsonl, because JSON has no word for them.
    Of several hosts the first one writes; what the others write goes nowhere.

    Raises:
      UserError: `workdir` is gone, the disk is full, or the metrics there are broken.
    """
    if not hosts.is_first():
        yield MetricsWriter(lambda at, values: None, lambda at, name, picture: None)
        return
    path = workdir / "metrics.jsonl"
    kept = "".join(_line(row) for row in read_metrics(path) if row["step"] <= step)
    files.write_atomically(path, lambda handle: handle.write(kept.encode()), root=workdir)
    with contextlib.ExitStack() as stack:
        with _errors(path):
            rows = stack.enter_context(_closing(path.open("a"), path))
            board = stack.enter_context(_closing(_open_board(workdir, purge_step=step + 1), path))

        def scalars(at: int, values: dict[str, Any]) -> None:
            with _errors(path):
                _require_same(path, rows)
                rows.write(_line({"step": at, **values}))
                rows.flush()
                _add(board, at, _scalars(values))
                board.flush()

        def image(at: int, name: str, picture: np.ndarray) -> None:
            with _errors(path):
                _add(board, at, summary.image(name, picture, dataformats="HWC"))
                board.flush()

        yield MetricsWriter(scalars, image)


def _scalars(values: dict[str, Any]) -> Summary:
    return Summary(value=[Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()])


def _line(row: dict[str, Any]) -> str:
    return json.dumps(files.plain(row), allow_nan=False) + "\n"


@contextlib.contextmanager
def _errors(path: pathlib.Path) -> Iterator[None]:
    """Failed writes as one line."""
    try:
        yield
    except OSError as error:
        files.require_folder(path.parent)
        raise files.cannot_write(path, error) from error


@contextlib.contextmanager
def _closing(handle: Any, path: pathlib.Path) -> Iterator[Any]:
    """Closes `handle`; what cannot be flushed then is an error, unless there is one already."""
    try:
        yield handle
    except BaseException:
        with contextlib.suppress(OSError):
            handle.close()
        raise
    with _errors(path):
        handle.close()


def _require_same(path: pathlib.Path, handle: IO[str]) -> None:
    """An open file takes rows even after its name is gone, and nobody would see them."""
    try:
        there = path.stat()
    except FileNotFoundError as error:
        files.require_folder(path.parent)
        raise UserError(f"{path} is gone: it was removed while it was written to") from error
    if not os.path.samestat(there, os.fstat(handle.fileno())):
        raise UserError(f"{path} was replaced by another file while it was written to")


def _open_board(workdir: pathlib.Path, *, purge_step: int) -> EventsWriter:
    """TensorBoard's file. `SummaryWriter` has a thread that prints tracebacks on a full disk
    and then waits for ever, so events are written here and now.
    """
    folder = workdir / "tensorboard"
    files.make_folders(folder, root=workdir)
    board = EventsWriter(str(folder / "events"))
    for event in (
        Event(step=purge_step, file_version="brain.Event:2"),
        Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)),
    ):
        event.wall_time = time.time()
        board.write_event(event)
    return board


def _add(board: EventsWriter, at: int, content: Any) -> None:
    board.write_event(Event(step=at, wall_time=time.time(), summary=content))


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
