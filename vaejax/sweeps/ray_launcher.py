"""The groups of a sweep as tasks of a Ray cluster; needs the `ray` extra."""

import contextlib
import importlib
import os
import pathlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import Console

from vaejax.errors import UserError
from vaejax.storage import compilation, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps.members import Member

NUM_RETRIES = 3
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_LOCK = 60.0
_SECONDS_TO_ANSWER = 10.0


def connect(address: str | None) -> Any:
    """The `ray` module, connected to the cluster at `address`, else RAY_ADDRESS, else a
    cluster running on this machine, else a new local one.

    Raises:
      UserError: Ray is not installed, or nothing answers at the address.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "--launcher: ray is not installed; pip install -e '.[ray]', or use --launcher=local"
        ) from error
    if ray.is_initialized():
        return ray
    where = address or os.environ.get("RAY_ADDRESS") or "a local cluster"
    try:
        _knock(where)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, grpc's own
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--ray_address: no Ray cluster at {where}: {text[:200]}; start one with ray start "
            f"--head, or leave the address out for a local one"
        ) from error
    return ray


def _knock(where: str) -> None:
    """Raises OSError where nothing listens at host:port; Ray itself would wait for minutes."""
    host, _, port = where.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


def run_groups(
    task: Callable[..., dict[str, str]],
    groups: Sequence[Sequence[Member]],
    workdir: pathlib.Path,
    *,
    address: str | None,
    num_devices: int,
    stopped: Callable[[], bool],
    report: Callable[[str, int, str], None],
) -> dict[str, str]:
    """One Ray task per group, each tried again where its worker is lost.

    A task that is tried again resumes from its members' checkpoints. Each takes `num_devices` GPUs
    where the cluster has some, else as many CPUs, all of one machine: the mesh of --mesh lies
    inside it. `workdir` must be a folder that all nodes share.

    Returns:
      Failures by member.

    Raises:
      UserError: no cluster, or no machine of it has so many devices.
    """
    ray = connect(address)
    kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
    _check_devices(ray.nodes(), kind, num_devices)
    wanted = {"num_gpus": num_devices} if kind == "GPU" else {"num_cpus": num_devices}
    remote = ray.remote(max_retries=NUM_RETRIES, **wanted)(_run)
    place = workdir.absolute()
    handles = {remote.remote(task, list(group), place, num_devices): group for group in groups}
    failures: dict[str, str] = {}
    while handles and not stopped():
        ready, _ = ray.wait(list(handles), timeout=_SECONDS_BETWEEN_LOOKS)
        for handle in ready:
            group = handles.pop(handle)
            try:
                failures |= ray.get(handle)
            except ray.exceptions.RayError as error:
                text = " ".join(str(error).split())[-300:]
                failures |= {m.name: f"its Ray task failed: {text}" for m in group}
        for group in handles.values():
            _report_progress(group, workdir, report)
    for handle in handles:
        ray.cancel(handle, force=True)
    return failures


def _check_devices(nodes: Sequence[dict[str, Any]], kind: str, num_devices: int) -> None:
    """Ray would wait for ever for what no machine has."""
    most = int(max(node["Resources"].get(kind, 0) for node in nodes if node["Alive"]))
    if num_devices > most:
        raise UserError(
            f"--mesh: needs {num_devices} devices of one machine, the largest of the Ray cluster "
            f"has {most} {kind}s; choose at most {most} in all"
        )


def _run(
    task: Callable[..., dict[str, str]],
    group: Sequence[Member],
    workdir: pathlib.Path,
    num_devices: int,
) -> dict[str, str]:
    """What a worker does: waits until a lost predecessor's locks are free, then runs."""
    if num_devices > 1 and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # a worker of the same sweep, used once more
            jax.config.update("jax_num_cpu_devices", num_devices)
    compilation.keep_programs(workdir, Console(quiet=True))
    deadline = time.monotonic() + _SECONDS_FOR_LOCK
    while True:
        failures = task(
            group,
            console=Console(quiet=True),
            stopped=lambda: False,
            report=lambda name, examples, text: None,
        )
        held = [text for text in failures.values() if "another trainer is running" in text]
        if not held or time.monotonic() > deadline:
            return failures
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _report_progress(group, workdir, report) -> None:
    for member in group:
        rows = logging.read_metrics(workdir / member.name / workdir_lib.METRICS)
        if rows:
            shown = next((k for k in ("validation/iwae", "train/elbo") if k in rows[-1]), None)
            text = f"{shown} {rows[-1][shown]:.2f}" if shown else ""
            done = int(rows[-1]["step"]) * member.config.training.batch_size
            report(member.name, done, text)
