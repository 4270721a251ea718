"""What a compiled program needs of a device's memory, and what the device has."""

import os
from typing import Any

import jax

from vaejax.config import Config
from vaejax.errors import UserError

_GIB = 2**30


def program_bytes(compiled: Any) -> int:
    """What a compiled program holds in the memory of one device."""
    sizes = compiled.memory_analysis()
    used = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return used - sizes.alias_size_in_bytes


def device_bytes(device: jax.Device, *, sharers: int = 1) -> int:
    """What a program may take: 0.9 of an accelerator, or half of the host's memory.

    `sharers` is the number of devices among which the host's memory is divided.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.9 * stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // sharers


def check_parameters(needed: int, *, limit: int) -> None:
    """Refuses a model whose state alone is larger than `limit` bytes, before it is made.

    Raises:
      UserError: naming what it needs, what there is, and the keys that set it.
    """
    if needed > limit:
        raise UserError(
            f"config.model: parameters and Adam's moments need {needed / _GIB:.3g} GiB, "
            f"{limit / _GIB:.3g} GiB may be used; lower model.latent_dims or the widths of "
            f"model.encoder"
        )


def check_samples(config: Config, *, limit: int) -> None:
    """Refuses K samples per example whose z and log weights alone are larger than `limit` bytes.

    That is known before the step is compiled; XLA of JAX 0.12 dies of K close to 2^31.

    Raises:
      UserError: naming what they need, what there is, and the keys that set it.
    """
    numbers = 1 + sum(config.model.latent_dims)
    needed = 4 * config.objective.num_samples * config.training.batch_size * numbers
    if needed > limit:
        raise UserError(f"{_one_step(config)} at least {_sizes(needed, limit)}")


def check_training(compiled: Any, config: Config, *, limit: int) -> None:
    """Refuses a training program that needs more than `limit` bytes, before it runs.

    Raises:
      UserError: naming what it needs, what there is, and the keys that set it.
    """
    needed = program_bytes(compiled)
    if needed > limit:
        raise UserError(f"{_one_step(config)} {_sizes(needed, limit)}")


def _one_step(config: Config) -> str:
    return (
        f"config.objective.num_samples={config.objective.num_samples} with "
        f"training.batch_size={config.training.batch_size}: one step needs"
    )


def _sizes(needed: int, limit: int) -> str:
    return f"{needed / _GIB:.3g} GiB, {limit / _GIB:.3g} GiB may be used; lower either"
