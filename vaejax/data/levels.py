"""Grey and colour levels: fewer of them, on the unit interval, with noise in place of steps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray, UInt8

from vaejax.data import binarization

STORED = 256
"""Levels of an image of whole numbers as it is stored: 0..255."""


def quantize(images: UInt8[np.ndarray, "*N"], levels: int) -> UInt8[np.ndarray, "*N"]:
    """The whole part of images * levels / 256: bins of equal width, 0..levels - 1."""
    if levels == STORED:
        return images
    table = (np.arange(STORED) * levels // STORED).astype(np.uint8)
    quantized = table[images]
    quantized.setflags(write=False)
    return quantized


def scaled(images: Num[Array, "*N"], levels: int) -> Float[Array, "*N"]:
    """Level / (levels - 1), in [0, 1]; float32."""
    return images.astype(jnp.float32) / (levels - 1.0)


def dequantized(key: PRNGKeyArray, images: Num[Array, "*N"], levels: int) -> Float[Array, "*N"]:
    """(level + u) / levels, u uniform in [0, 1), in [0, 1); float32.

    u has 16 random bits, with which the sum is exact in float32: no level becomes the next.
    Uria, Murray and Larochelle (2013): the mean of log p over u, less log levels for each
    value, is at most the log mass of the levels (Theis, van den Oord and Bethge, 2016).
    """
    noise = binarization.random_halves(key, images.shape).astype(jnp.float32) / 2.0**16
    return (images.astype(jnp.float32) + noise) / float(levels)
