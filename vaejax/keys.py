"""Random keys: one domain per purpose, so that no two purposes ever share a number."""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray


def domain(seed: int | Int[Array, ""], purpose: str) -> PRNGKeyArray:
    """The key of one purpose ("training/init", "evaluation/samples", ...) under `seed`.

    `seed` may be traced.
    """
    return within(jax.random.key(seed), purpose)


def within(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """The key of one purpose under a key of your own, as for an example that draws for two.

    fold_in(key, n) with n the CRC-32 of the purpose, its highest bit set: positions of examples,
    steps and samples lie below 2^31, so a key folded or split by position is none of these.
    """
    number = np.uint32(zlib.crc32(purpose.encode()) | 0x80000000)
    return jax.random.fold_in(key, number)
