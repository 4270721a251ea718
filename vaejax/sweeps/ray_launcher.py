"""The groups of a sweep as tasks of a Ray cluster; needs the `ray` extra."""

import importlib
import os
import pathlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from vaejax.errors import UserError
from vaejax.storage import logging
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
    stopped: Callable[[], bool],
    report: Callable[[str, int, str], None],
) -> dict[str, str]:
    """One Ray task per group, each tried again where its worker is lost.

    A task that is tried again resumes from its members' checkpoints. Where the cluster has
    GPUs, each task takes one. `workdir` must be a folder that all nodes share.

    Returns:
      Failures by member.
    """
    ray = connect(address)
    num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(max_retries=NUM_RETRIES, num_cpus=1, num_gpus=num_gpus)(_run)
    handles = {remote.remote(task, list(group)): group for group in groups}
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


def _run(task: Callable[..., dict[str, str]], group: Sequence[Member]) -> dict[str, str]:
    """What a worker does: waits until a lost predecessor's locks are free, then runs."""
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
