"""From uint8 intensities to the 0/1 data a Bernoulli likelihood models."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8


def sample(key: PRNGKeyArray, images: UInt8[Array, "*N D"]) -> Bool[Array, "*N D"]:
    """One draw of x_d ~ Bernoulli(images_d / 255), independent per pixel.

    Each pixel takes 16 random bits, compared with 257 p + [p > 127] = round(2^16 p / 255):
    the probability is exact at 0 and 255 and off by less than 2^-17 between. Half the
    random words of a float32 uniform, which is most of what binarising costs.
    """
    num_bits = images.size + images.size % 2
    words = jax.random.bits(key, (num_bits // 2,), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: images.size]
    threshold = images.astype(jnp.int32) * 257 + (images > 127)
    return halves.reshape(images.shape).astype(jnp.int32) < threshold


def intensities(images: UInt8[Array, "*N D"]) -> Float[Array, "*N D"]:
    """images / 255, in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def prepare(
    key: PRNGKeyArray, images: UInt8[Array, "*N D"], *, dynamic: bool
) -> Float[Array, "*N D"]:
    """x for training: a fresh 0/1 draw where `dynamic`, else the intensities; float32."""
    return sample(key, images).astype(jnp.float32) if dynamic else intensities(images)


def fixed(images: UInt8[np.ndarray, "N D"], *, seed: int) -> UInt8[np.ndarray, "N D"]:
    """The one 0/1 draw of a held-out set that `seed` stands for (dtype uint8)."""
    return np.asarray(jax.jit(sample)(jax.random.key(seed), images)).astype(np.uint8)


def sha256(images: UInt8[np.ndarray, "N D"]) -> str:
    """Hash of shape and bytes: two evaluations with the same hash saw the same data."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()
