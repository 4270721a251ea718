"""What a run says while it works: metrics on disk, a progress bar, a line now and then."""

import contextlib
import datetime
import json
import os
import pathlib
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from vaejax import hosts
from vaejax.errors import UserError, unknown
from vaejax.storage import files, wandb_run
from vaejax.storage.json_files import read_metrics as read_metrics  # callers know it from here

_LONGEST_WAIT = 1e9  # seconds: 32 years are shown for anything longer
_SECONDS_BETWEEN_LINES = 10.0
JSONL = "jsonl"
DEFAULT = (JSONL, "tensorboard")


class MetricsWriter(NamedTuple):
    """Where numbers of a run go.

    Attributes:
      scalars: `(step, values)`: a row of metrics.jsonl, and scalars for the others.
      image: `(step, name, picture [H, W, 3] uint8)`, for loggers that show pictures.
    """

    scalars: Callable[[int, dict[str, Any]], None]
    image: Callable[[int, str, np.ndarray], None]


@contextlib.contextmanager
def metrics_writer(
    workdir: pathlib.Path, *, step: int, loggers: Sequence[str] = DEFAULT
) -> Iterator[MetricsWriter]:
    """What is given to it goes to each of `loggers`, names of `LOGGERS`, for the run in `workdir`.

    A run that is resumed at `step` leaves the files of one that never stopped. Of several hosts
    the first one writes; what the others write goes nowhere.

    Raises:
      UserError: `workdir` is gone, the disk is full, the metrics there are broken, or a logger
        cannot begin.
    """
    if not hosts.is_first():
        yield MetricsWriter(lambda at, values: None, _no_image)
        return
    # metrics.jsonl is begun last: where another logger cannot begin, the run has not begun.
    names = sorted(loggers, key=JSONL.__eq__)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(LOGGERS[name](workdir, step=step)) for name in names][::-1]

        def scalars(at: int, values: dict[str, Any]) -> None:
            for writer in writers:
                writer.scalars(at, values)

        def image(at: int, name: str, picture: np.ndarray) -> None:
            for writer in writers:
                writer.image(at, name, picture)

        yield MetricsWriter(scalars, image)


def _no_image(at: int, name: str, picture: np.ndarray) -> None:
    """For loggers that take numbers alone."""


@contextlib.contextmanager
def _jsonl(workdir: pathlib.Path, *, step: int) -> Iterator[MetricsWriter]:
    """metrics.jsonl: a row for each step, appended; rows after `step` are dropped first.

    Numbers that are not finite are null, because JSON has no word for them.
    """
    path = workdir / "metrics.jsonl"
    kept = "".join(_line(row) for row in read_metrics(path) if row["step"] <= step)
    files.write_atomically(path, lambda handle: handle.write(kept.encode()), root=workdir)
    with contextlib.ExitStack() as stack:
        with _errors(path):
            rows = stack.enter_context(_closing(path.open("a"), path))

        def scalars(at: int, values: dict[str, Any]) -> None:
            with _errors(path):
                _require_same(path, rows)
                rows.write(_line({"step": at, **values}))
                rows.flush()

        yield MetricsWriter(scalars, _no_image)


@contextlib.contextmanager
def _tensorboard(workdir: pathlib.Path, *, step: int) -> Iterator[MetricsWriter]:
    """Events in tensorboard/; what came after `step` is told to be forgotten."""
    folder = workdir / "tensorboard"
    with contextlib.ExitStack() as stack:
        with _errors(folder):
            board = stack.enter_context(_closing(_begin_events(folder), folder))

        def add(at: int, **fields: Any) -> None:
            with _errors(folder):
                board.write(_record(Event(step=at, **fields)))

        def image(at: int, name: str, picture: np.ndarray) -> None:
            add(at, summary=summary.image(name, picture, dataformats="HWC"))

        add(0, file_version="brain.Event:2")
        add(step + 1, session_log=SessionLog(status=SessionLog.START))
        yield MetricsWriter(lambda at, values: add(at, summary=_scalars(values)), image)


@contextlib.contextmanager
def _wandb(workdir: pathlib.Path, *, step: int) -> Iterator[MetricsWriter]:
    """A run of Weights & Biases, continued where this one is.

    What was logged before, of steps up to its own last one, it does not take twice.
    """
    with wandb_run.opened(workdir) as run:

        def image(at: int, name: str, picture: np.ndarray) -> None:
            run.log({name: wandb_run.image(picture)}, step=at)

        yield MetricsWriter(lambda at, values: run.log(values, step=at), image)


LOGGERS: dict[str, Callable[..., contextlib.AbstractContextManager[MetricsWriter]]] = {
    JSONL: _jsonl,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""`(workdir, *, step)` -> a writer that is closed at the end. To add one, write it and name it."""


def chosen(text: str) -> tuple[str, ...]:
    """The loggers that --loggers names, comma-separated.

    Raises:
      UserError: an unknown name, one that is given twice, one that is not installed or has no
        account, or no jsonl, with which runs are continued.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in LOGGERS:
            raise unknown("--loggers", name, LOGGERS)
        if names.count(name) > 1:
            raise UserError(f"--loggers: {name} is given twice")
    if JSONL not in names:
        raise UserError(
            f"--loggers: needs {JSONL}, got {text}; a run is resumed, drawn and compared by its "
            f"metrics.jsonl; use --loggers={JSONL},{text}"
        )
    if "wandb" in names:
        wandb_run.check()
    return names


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


def _begin_events(folder: pathlib.Path) -> IO[bytes]:
    """A new file of TensorBoard's. Neither `SummaryWriter`, whose thread waits for ever on a full
    disk, nor `EventsWriter`, which leaves its file open there, ends with one line; this does.
    """
    files.make_folders(folder, root=folder.parent)
    name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
    return (folder / name).open("ab", buffering=0)


def _record(event: Event) -> bytes:
    """An event as TFRecord: length, its checksum, content, its checksum."""
    event.wall_time = time.time()
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + checksums[0] + content + checksums[1]


def warn(console: Console, text: str) -> None:
    """Says `text` as a warning, on one line."""
    console.print(f"warning: {text}", style="yellow", soft_wrap=True, markup=False)


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
        begun_at: Any = done  # Progress says int here, and float where it is read
        task = bar.add_task(title, total=total, completed=begun_at, rate="", text="")

        def update(completed: float, text: str) -> None:
            nonlocal said
            now = time.monotonic()
            rate = max(completed - done, 1e-9) / max(now - begun, 1e-9)
            pace = f"{rate:,.0f} {unit}/s"
            bar.update(task, completed=completed, rate=pace, text=text)
            if not live and now - said > _SECONDS_BETWEEN_LINES:
                seconds = min((total - completed) / rate, _LONGEST_WAIT)
                said, left = now, datetime.timedelta(seconds=round(seconds))
                console.print(f"{title} {completed / total:4.0%}  {pace}  {left} left  {text}")

        yield update
