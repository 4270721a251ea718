"""Images as 0 and 1: drawn or thresholded; and the hash of a data set."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

CHOICES = ("dynamic", "static", "threshold", "none")
Images = UInt8[Array, "*N"] | Float[Array, "*N"]


def random_halves(key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, "*N"]:
    """Whole numbers 0..65535, 16 random bits each: half the words of float32 uniforms."""
    size = math.prod(shape)
    words = jax.random.bits(key, ((size + size % 2) // 2,), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    return halves.reshape(shape).astype(jnp.int32)


def sample(key: PRNGKeyArray, images: Images) -> Bool[Array, "*N"]:
    """One draw of x_d ~ Bernoulli(p_d), independent per pixel; p = images / 255 of uint8.

    Each pixel takes 16 random bits, compared with 257 p + [p > 127] = round(2^16 p / 255):
    the probability is exact at 0 and 255 and off by less than 2^-17 between. Random words
    are most of what binarising costs.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        threshold = jnp.round(images.astype(jnp.float32) * 2**16).astype(jnp.int32)
    else:
        threshold = images.astype(jnp.int32) * 257 + (images > 127)
    return random_halves(key, images.shape) < threshold


def above_middle(images: Images) -> Bool[Array, "*N"]:
    """Whether a pixel is above 127, or above 1/2 where it is a float."""
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    return images > (0.5 if floating else 127)


def binarized(key: PRNGKeyArray, images: Images, choice: str) -> Bool[Array, "*N"]:
    """Images as 0 and 1 by one of CHOICES but "none"; `key` is used where they are drawn."""
    return above_middle(images) if choice == "threshold" else sample(key, images)


def sha256(images: np.ndarray) -> str:
    """Hash of shape [N, D] and bytes: two evaluations with the same hash saw the same data."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    digest = hashlib.sha256(str(flat.shape).encode())
    digest.update(flat.tobytes())
    return digest.hexdigest()
