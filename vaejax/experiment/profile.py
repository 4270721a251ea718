"""Where the time goes: the flag --profile, a trace of JAX's profiler and what cost most."""

import contextlib
import pathlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from vaejax import hosts
from vaejax.errors import Stopped, UserError
from vaejax.storage import files
from vaejax.storage import workdir as workdir_lib

SECONDS, MOST_SHOWN = 10.0, 10
_OPERATION, _PROGRAM = "hlo_op", "hlo_module"
_TPU_LINE, _MARK = "XLA Ops", "end: "


class Event(NamedTuple):
    """One execution of an operation on one thread or stream.

    Attributes:
      operation, program: names that XLA gives.
      start, seconds: when it began, and how long it took, with what ran inside it.
    """

    operation: str
    program: str
    start: float
    seconds: float


def define_profile() -> None:
    """Defines --profile."""
    flags.DEFINE_string(
        "profile",
        None,
        f"folder for a trace of JAX's profiler of the first {SECONDS:.0f} s; prints the costliest "
        "operations",
    )


def self_seconds(events: Iterable[Event]) -> dict[tuple[str, str], float]:
    """Seconds by (operation, program) of one thread, without those of events inside: a loop
    does not count what its body does.
    """
    found: dict[tuple[str, str], float] = defaultdict(float)
    around: list[Event] = []
    # A longer event that begins at the same moment is around the shorter one.
    for event in sorted(events, key=lambda e: (e.start, -e.seconds)):
        while around and around[-1].start + around[-1].seconds <= event.start:
            around.pop()
        found[event.operation, event.program] += event.seconds
        if around:
            found[around[-1].operation, around[-1].program] -= event.seconds
        around.append(event)
    return dict(found)


def read(path: pathlib.Path) -> dict[tuple[str, str], float]:
    """Seconds by (operation, program) in a trace, summed over threads, streams and devices."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for key, seconds in self_seconds(_operations(line)).items():
                total[key] += seconds
    return dict(total)


def _operations(line) -> Iterator[Event]:
    for event in line.events:
        seconds = event.duration_ns * 1e-9
        if seconds == 0 or event.name.startswith(_MARK):  # millions; their stats are slow to read
            continue
        stats = dict(event.stats)
        if _OPERATION in stats or line.name == _TPU_LINE:
            operation = str(stats.get(_OPERATION, event.name))
            program = str(stats.get(_PROGRAM, ""))
            yield Event(operation, program, event.start_ns * 1e-9, seconds)


def table(found: dict[tuple[str, str], float]) -> Table:
    """The costliest operations, and the part each has in the time of all."""
    title = f"the {MOST_SHOWN} costliest operations, all threads and devices together"
    shown = Table("operation", "program", title=title)
    for name in ("seconds", "share"):
        shown.add_column(name, justify="right")
    total = sum(found.values()) or 1.0
    ordered = sorted(found.items(), key=lambda item: -item[1])
    for (operation, program), seconds in ordered[:MOST_SHOWN]:
        shown.add_row(operation, program, f"{seconds:.3f}", f"{seconds / total:.1%}")
    return shown


@contextlib.contextmanager
def profiled(console: Console) -> Iterator[None]:
    """Traces what is inside, where --profile asks for it, and prints what cost most.

    Of several hosts the first one is traced. After 10 s the trace ends, because its files grow
    by tens of megabytes a second.

    Raises:
      UserError: the folder cannot be written.
    """
    if flags.FLAGS.profile is None or not hosts.is_first():
        yield
        return
    folder = workdir_lib.check_path(flags.FLAGS.profile, flag="--profile", checkpoints=False)
    files.require_writable(folder, ["plugins/profile/trace"])
    before, stopped = {*folder.rglob("*.xplane.pb")}, None
    stop = _start(folder)
    try:
        yield
    except Stopped as error:
        stopped = error
    finally:
        stop()
    _show(folder, {*folder.rglob("*.xplane.pb")} - before, console)
    if stopped is not None:
        raise stopped


def _start(folder: pathlib.Path) -> Callable[[], None]:
    """Starts a trace; what comes back ends it, unless its time was over before."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(str(folder), profiler_options=options)
    running, lock = [True], threading.Lock()

    def stop() -> None:
        with lock:
            if running:
                running.clear()
                with contextlib.suppress(Exception):  # a full disk: no trace is found then
                    jax.profiler.stop_trace()

    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
    timer.start()
    return lambda: (timer.cancel(), stop())


def _show(folder: pathlib.Path, traces: set[pathlib.Path], console: Console) -> None:
    if not traces:
        raise UserError(f"--profile: no trace could be written under {folder}; free some space")
    found: Counter[tuple[str, str]] = Counter()
    for path in traces:
        found.update(read(path))
    console.print(table(found))
    console.print(
        f"trace: {folder}; look at it with TensorBoard's profile plugin or xprof",
        soft_wrap=True,
        markup=False,
    )
