"""Which devices JAX sees, and how runs are spread over them: the flag --mesh."""

import contextlib
import os

import jax
from absl import flags

from vaejax import meshes


def define_mesh() -> None:
    """Defines --mesh."""
    flags.DEFINE_string(
        "mesh",
        None,
        "members:M,data:D: runs side by side times devices for each batch; either may be left "
        "out; default: found by itself",
    )


def layout() -> meshes.Layout:
    """The mesh asked for with --mesh, on one XLA device per core where only CPUs are there.

    The first thing of a script that asks JAX for devices. Raises UserError.
    """
    text = flags.FLAGS.mesh
    if text is None:
        return meshes.BY_ITSELF
    found = meshes.parse(text)
    use_all_cores()
    return found


def use_all_cores() -> None:
    """One XLA device per CPU core, so that runs train side by side; first thing or never.

    Where JAX_NUM_CPU_DEVICES says another number, it stays.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
