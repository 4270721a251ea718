"""Who takes part: all processes of a run meet at the coordinator's address before JAX starts.

JAX ends a process with a trace of its C++ where the coordinator does not answer, and does not
notice a number that is used twice in time. Here every process learns in one sentence what is
wrong. The address is free again afterwards: JAX takes it.
"""

import errno
import json
import socket
import time
from typing import NamedTuple

from vaejax.errors import UserError

TO_REACH, TO_COME = 30.0, 120.0
"""Seconds to reach the coordinator, and seconds that it waits until all have come."""
_TO_SPEAK, _BETWEEN_TRIES = 5.0, 0.2
_LONGEST, _NUMBERS = 10_000, ("process_id", "num_processes")


class Place(NamedTuple):
    """Of a process in its run."""

    host: str
    port: int
    num_processes: int
    process_id: int


def meet(place: Place, *, to_reach: float = TO_REACH, to_come: float = TO_COME) -> None:
    """Returns where every process from 0 to `num_processes` - 1 has come, once.

    Raises:
      UserError: the coordinator is not reached, somebody does not come, a number is used
        twice, or the processes disagree on how many they are; on all that came.
    """
    if place.process_id == 0:
        try:
            door = _open(place.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"--coordinator: port {place.port} cannot be opened here: {error.strerror}"
                ) from error
            _report(place, to_reach, to_come)  # another process 0 is told, and tells everybody
            raise _in_use(place) from error
        with door:
            _receive(door, place, to_come)
    else:
        _report(place, to_reach, to_come)


def _open(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _receive(door: socket.socket, place: Place, to_come: float) -> None:
    """What process 0 does: waits for the others, and tells all of them the verdict."""
    come, visitors, problem = {0}, [], None
    deadline = time.monotonic() + to_come
    while len(come) < place.num_processes and problem is None:
        door.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            visitor, _ = door.accept()
        except TimeoutError:
            absent = sorted({*range(place.num_processes)} - come)
            listed = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
            problem = f"--num_processes: process {listed} did not come within {to_come:.0f} s"
            break
        visitor.settimeout(_TO_SPEAK)
        found = _line(visitor)
        if found is None or not all(type(found.get(name)) is int for name in _NUMBERS):
            visitor.close()
            continue
        visitors.append(visitor)
        problem = _problem(found, come, place.num_processes)
        come.add(found["process_id"])
    for visitor in visitors:
        with visitor:
            _say(visitor, {"problem": problem})
            _line(visitor)  # until they hang up: who does so last keeps the address
    if problem is not None:
        raise UserError(problem)


def _problem(found: dict[str, int], come: set[int], num_processes: int) -> str | None:
    number, count = found["process_id"], found["num_processes"]
    if count != num_processes:
        return f"--num_processes: is {num_processes} on process 0 and {count} on process {number}"
    if number in come:
        return f"--process_id: {number} is used twice; number the processes 0..{num_processes - 1}"
    return None


def _report(place: Place, to_reach: float, to_come: float) -> None:
    """What the other processes do: say their number, and hear the verdict."""
    with _connect(place, to_reach) as line:
        _say(line, {"process_id": place.process_id, "num_processes": place.num_processes})
        line.settimeout(to_come + _TO_SPEAK)
        verdict = _line(line)
    if verdict is None or "problem" not in verdict:
        raise _in_use(place)
    if verdict["problem"] is not None:
        raise UserError(verdict["problem"])


def _connect(place: Place, to_reach: float) -> socket.socket:
    deadline = time.monotonic() + to_reach
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((place.host, place.port), timeout=max(0.01, left))
        except OSError as error:
            if time.monotonic() + _BETWEEN_TRIES >= deadline:
                raise UserError(
                    f"--coordinator: {place.host}:{place.port} cannot be reached within "
                    f"{to_reach:.0f} s: {error.strerror or error}; start process 0 there, and "
                    f"look at names and firewalls"
                ) from error
        time.sleep(_BETWEEN_TRIES)


def _in_use(place: Place) -> UserError:
    return UserError(
        f"--coordinator: {place.host}:{place.port} is in use: a run has begun there (is process "
        f"{place.process_id} started twice?), or another program; choose another port"
    )


def _say(line: socket.socket, message: dict) -> None:
    try:
        line.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # who hangs up hears no verdict


def _line(line: socket.socket) -> dict | None:
    """The one message of the other side; None: it has none."""
    content = b""
    try:
        while not content.endswith(b"\n") and len(content) < _LONGEST:
            part = line.recv(_LONGEST)
            if not part:
                return None
            content += part
        found = json.loads(content)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
