"""Several hosts for one run: the flags --coordinator, --num_processes and --process_id."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from rich.console import Console

import vaejax
from vaejax import config as config_lib
from vaejax import hosts, schema
from vaejax.config import Config
from vaejax.errors import UserError, shown
from vaejax.experiment import roll_call, supervisor
from vaejax.experiment.roll_call import Place

AUTO = "auto"
_FLAGS = ("coordinator", "num_processes", "process_id")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_HEARTBEAT, _TO_JOIN, _TO_END, _TO_LEAVE = 30, 120, 300, 5.0
_MOST_PROCESSES, _MOST_NAMED = 2**20, 5
_LOST = re.compile(r"gloo|nccl|unavailable|connection|socket|heartbeat|aborted", re.IGNORECASE)


def define_flags() -> None:
    """Defines --coordinator, --num_processes and --process_id."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, where several hosts share a run; auto: what the cluster's "
        "environment says (Slurm, TPU pods, ...)",
    )
    flags.DEFINE_integer("num_processes", None, "how many processes share the run")
    flags.DEFINE_integer("process_id", None, "which of them this is, from 0 on")


def refuse(reason: str) -> None:
    """Raises UserError with `reason` where a flag of several hosts is given."""
    for name in _FLAGS:
        if flags.FLAGS[name].value is not None:
            raise UserError(f"--{name}: {reason}")


def asked() -> bool:
    """Whether the flags, which a script may lack, are there and ask for several hosts."""
    return "coordinator" in flags.FLAGS and flags.FLAGS["coordinator"].value is not None


def place(address: str | None, count: int | None, number: int | None) -> Place | None:
    """Where this process stands as its flags say; None: as the cluster's environment says.

    Raises:
      UserError: flags that are missing, contradict one another or are out of range.
    """
    given = dict(zip(_FLAGS, (address, count, number), strict=True))
    if address == AUTO:
        for name in _FLAGS[1:]:
            if given[name] is not None:
                raise UserError(f"--{name}: --coordinator=auto finds it by itself; leave it out")
        return None
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: missing; give --coordinator, --num_processes and "
            f"--process_id, or --coordinator=auto on a cluster"
        )
    host, _, port = address.rpartition(":")
    legal = port.isascii() and port.isdecimal() and 0 < len(port) < 6
    if not host or not legal or not 1 <= int(port) < 2**16:
        raise UserError(
            f"--coordinator: needs HOST:PORT, like node1:1234, or auto, got {shown(address)}"
        )
    if not 1 <= count <= _MOST_PROCESSES:
        raise UserError(f"--num_processes: must be in 1..{_MOST_PROCESSES}, got {shown(count)}")
    if not 0 <= number < count:
        raise UserError(f"--process_id: must be in 0..{count - 1}, got {shown(number)}")
    return Place(host.strip("[]"), int(port), count, number)


def join(console: Console, about: Mapping[str, Any]) -> Console:
    """Joins the other hosts, where the flags ask for it; returns the console to speak on.

    To be called before JAX is asked for devices. Where hosts are asked for, this process
    becomes the one that watches, and does not return; its child does.

    Args:
      console: of this process.
      about: what must be the same on all hosts, by dotted path.

    Raises:
      UserError: bad flags, a coordinator that is not reached, or hosts that disagree.
    """
    given = [flags.FLAGS[name].value for name in _FLAGS]
    if given == [None] * len(_FLAGS):
        return console
    where = place(*given)
    if not supervisor.is_child():
        if where is not None:
            roll_call.meet(where)
        sys.exit(supervisor.run_again())
    supervisor.end_with_parent()
    _initialize(where)
    _require_even()
    require_same({**about, **_versions()})
    return console if hosts.is_first() else Console(quiet=True)


def of_config(config: Config, **others: Any) -> dict[str, Any]:
    """What hosts compare of a run: every key of its config but where the data lie."""
    flat = schema.flatten(config_lib.to_dict(config))
    flat.pop("dataset.data_dir")
    return {f"config.{path}": value for path, value in flat.items()} | {
        f"--{name}": value for name, value in others.items()
    }


def _initialize(where: Place | None) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # signals are the loop's own
    options = {"initialization_timeout": _TO_JOIN, "heartbeat_timeout_seconds": _HEARTBEAT}
    options["shutdown_timeout_seconds"] = _TO_END
    if where is not None:
        host = f"[{where.host}]" if ":" in where.host else where.host
        address = f"{host}:{where.port}"
        jax.distributed.initialize(address, where.num_processes, where.process_id, **options)
        return
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--coordinator=auto: no cluster is found in the environment ({reason[:150]}); give "
            f"--coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error


def _require_even() -> None:
    """Raises UserError, on every host, where they have different numbers of devices."""
    counts = Counter(device.process_index for device in jax.devices())
    if len({*counts.values()}) > 1:
        listed = ", ".join(f"{counts[n]} on process {n}" for n in sorted(counts)[:_MOST_NAMED])
        raise UserError(f"hosts need the same number of devices each, there are {listed}")


def _versions() -> dict[str, str]:
    """Of this package, its source files and the packages that compute."""
    root, digest = pathlib.Path(vaejax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions |= {"vaejax": vaejax.__version__, "source files": digest.hexdigest()[:12]}
    return {f"version of {name}": version for name, version in versions.items()}


def require_same(about: Mapping[str, Any]) -> None:
    """Compares `about` over all hosts.

    Raises:
      UserError: hosts disagree, on every host; names the first process that differs, and
        what differs.
    """
    texts = hosts.gather(json.dumps(about, default=str, sort_keys=True))
    first = json.loads(texts[0])
    for number, text in enumerate(texts):
        other = json.loads(text)
        differing = [
            f"{name} ({shown(first.get(name))} != {shown(other.get(name))})"
            for name in sorted({*first, *other})
            if first.get(name) != other.get(name)
        ]
        if differing:
            more = len(differing) - _MOST_NAMED
            rest = f" and {more} more" if more > 0 else ""
            raise UserError(
                f"hosts disagree (process 0 != process {number}): "
                f"{'; '.join(differing[:_MOST_NAMED])}{rest}; start all with the same flags, "
                f"files and versions"
            )


def leave(code: int) -> int:
    """Takes leave of the other hosts before this process ends with `code`; returns it.

    After an error the others may wait for this one in the middle of their work, for ever:
    then it goes without them.
    """
    if not jax.distributed.is_initialized():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    ending = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    ending.start()
    ending.join(_TO_LEAVE if code in (1, 2) else _TO_END)
    if ending.is_alive():
        os._exit(code)
    return code


def end_where_lost(error: Exception) -> None:
    """Ends this process where `error` of JAX comes from the loss of another host."""
    if hosts.several() and _LOST.search(str(error)):
        print(f"{supervisor.LOST}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(1)
