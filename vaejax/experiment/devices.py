"""Which devices JAX sees."""

import contextlib
import os

import jax


def use_all_cores() -> None:
    """One XLA device per CPU core, so that runs train side by side; first thing or never."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
