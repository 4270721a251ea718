"""Several hosts that work on one run: who writes, what they agree on, what the first one knows.

Every host runs the same program, in the same order, each on its own devices. The first one
(process 0) reads and writes the files of a run.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaejax.errors import UserError

T = TypeVar("T")
_HOSTS, _LOCAL = "hosts", "local"


def several() -> bool:
    """Whether there is more than one host."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the host that writes."""
    return not several() or jax.process_index() == 0


def from_first(function: Callable[[], T]) -> T:
    """What `function` gives on the first host, on every host; the others do not call it.

    All hosts must ask together.

    Raises:
      UserError: what `function` raised, on every host.
    """
    if not several():
        return function()
    found: T | None = None
    error: str | None = None
    if is_first():
        try:
            found = function()
        except UserError as problem:
            error = str(problem)
    found, error = _broadcast((found, error))
    if error is not None:
        raise UserError(error)
    return cast(T, found)


def _broadcast(value: T) -> T:
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if not is_first():
        content = np.zeros(size, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes())


def gather(text: str) -> list[str]:
    """The text of every host, in their order; all hosts must ask together."""
    if not several():
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def largest(numbers: Sequence[int]) -> np.ndarray:
    """The largest of each number over all hosts; all hosts must ask together."""
    return _start(np.asarray(numbers, np.int32))()


def consensus(count: int) -> Callable[[Sequence[int]], np.ndarray]:
    """A function that takes `count` numbers of this host and gives the largest of all hosts'.

    On one host they are those that came. On several they are those of the call before (zeros
    at first), so that nobody waits for devices that are at work: what comes in between two
    calls is known to all hosts at the same later one.
    """
    if not several():
        return np.asarray
    waiting = [lambda: np.zeros(count, np.int32)]

    def ask(numbers: Sequence[int]) -> np.ndarray:
        waiting.append(_start(np.asarray(numbers, np.int32)))
        return waiting.pop(0)()

    return ask


def _start(numbers: np.ndarray) -> Callable[[], np.ndarray]:
    """Starts to compare numbers [F] over the hosts; what it returns waits for the largest."""
    if not several():
        return lambda: numbers
    devices = np.array(jax.devices()).reshape(jax.process_count(), jax.local_device_count())
    mesh = Mesh(devices, (_HOSTS, _LOCAL))
    rows = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec(_HOSTS)), numbers[None], (len(devices), len(numbers))
    )
    found = jax.jit(_largest, out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
    return lambda: np.asarray(found)


def _largest(rows: jax.Array) -> jax.Array:
    return rows.max(axis=0)
