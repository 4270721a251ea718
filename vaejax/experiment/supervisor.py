"""The process that watches over the one that computes, where a run is shared by several hosts.

JAX ends a process of several at once, with a trace of its C++, where another one is lost. What
the reader gets is one line, from a process that is still there: the script as it was started
runs the same command again as its child, passes signals on, and tells how it ended.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

LOST = "lost: "
"""What the child says before it ends because another host is lost."""
_CHILD, _LOG_LEVEL = "VAEJAX_SUPERVISED", "TF_CPP_MIN_LOG_LEVEL"
_FATAL = re.compile(r"F\d{4} \d\d:\d\d:\d\d")
_STATUS = re.compile(r"absl::Status: (.*)")


def is_child() -> bool:
    """Whether this process is the one that computes."""
    return _CHILD in os.environ


def end_with_parent() -> None:
    """Ends this process, the child, when its parent is gone."""
    del os.environ[_CHILD]  # what the child starts is no child of the supervisor

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_again() -> int:
    """Runs this command as a child until it ends; returns the exit code to end with."""
    environment = {**os.environ, _CHILD: "1"}
    if environment.get(_LOG_LEVEL, "1") == "1":  # what `import jax` sets; 0 asks for more
        environment[_LOG_LEVEL] = "3"
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    lost, said = None, False
    with _passed_on(child):
        for line in child.stderr:
            text = line.decode(errors="replace")
            if lost is None and (_FATAL.match(text) or text.startswith(LOST)):
                lost = _reason(text)
            if lost is None:
                said |= text.startswith("error: ")
                sys.stderr.write(text)
                sys.stderr.flush()
        code = child.wait()
    if lost is not None:
        if said:  # its own error was the reason: what came after is what followed from it
            return 2
        print(
            f"error: another host of this run, or the connection to it, was lost ({lost}); what "
            f"was saved stands: start all hosts again to continue",
            file=sys.stderr,
        )
        return 1
    if code < 0:
        print(f"error: this host's process was ended by signal {-code}", file=sys.stderr)
        return 128 - code
    return code


def _reason(text: str) -> str:
    found = _STATUS.search(text)
    reason = found.group(1) if found else text.removeprefix(LOST)
    return " ".join(reason.split())[:150] or "no reason is known"


@contextlib.contextmanager
def _passed_on(child: subprocess.Popen) -> Iterator[None]:
    """SIGTERM and SIGINT go to the child, which saves and ends."""

    def pass_on(number: int, _) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    names = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(name, pass_on) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
