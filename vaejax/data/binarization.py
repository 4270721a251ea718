"""From images to x: drawn, thresholded or left as they are."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from vaejax.data.sources import Kind

CHOICES = ("dynamic", "static", "threshold", "none")
Images = UInt8[Array, "*N"] | Float[Array, "*N"]


def sample(key: PRNGKeyArray, images: Images) -> Bool[Array, "*N"]:
    """One draw of x_d ~ Bernoulli(p_d), independent per pixel; p = images / 255 of uint8.

    Each pixel takes 16 random bits, compared with 257 p + [p > 127] = round(2^16 p / 255):
    the probability is exact at 0 and 255 and off by less than 2^-17 between. Half the
    random words of a float32 uniform, which is most of what binarising costs.
    """
    num_bits = images.size + images.size % 2
    words = jax.random.bits(key, (num_bits // 2,), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: images.size]
    if jnp.issubdtype(images.dtype, jnp.floating):
        threshold = jnp.round(images.astype(jnp.float32) * 2**16).astype(jnp.int32)
    else:
        threshold = images.astype(jnp.int32) * 257 + (images > 127)
    return halves.reshape(images.shape).astype(jnp.int32) < threshold


def above_middle(images: Images) -> Bool[Array, "*N"]:
    """Whether a pixel is above 127, or above 1/2 where it is a float."""
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    return images > (0.5 if floating else 127)


def intensities(images: Images) -> Float[Array, "*N"]:
    """Levels / 255; floats as they are: in [0, 1], float32."""
    images = jnp.asarray(images)
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    return images.astype(jnp.float32) if floating else images.astype(jnp.float32) / 255.0


def prepare(
    key: PRNGKeyArray, images: Images, *, binarization: str, kind: Kind
) -> Float[Array, "*N"]:
    """x of a batch, float32, of the shape of `images`; pure, for use inside jit.

    Args:
      key: of this batch; used where x is drawn.
      images: [N, H, W, C] uint8 or floats in [0, 1].
      binarization: one of CHOICES.
      kind: of `images`; binary ones are x already, whatever `binarization` says.
    """
    if kind == "binary":
        return images.astype(jnp.float32)
    if binarization == "threshold":
        return above_middle(images).astype(jnp.float32)
    if binarization == "none":
        return intensities(images)
    return sample(key, images).astype(jnp.float32)


def kind_of_x(kind: Kind, binarization: str) -> Kind:
    """What x is, made from images of `kind`: a Bernoulli likelihood needs "binary"."""
    return kind if binarization == "none" else "binary"


@functools.partial(jax.jit, static_argnames=("binarization", "kind"))
def _x(key, images, *, binarization, kind):
    return prepare(key, images, binarization=binarization, kind=kind).astype(jnp.uint8)


def fixed(
    key: PRNGKeyArray, images: np.ndarray, *, binarization: str = "static", kind: Kind = "levels"
) -> UInt8[np.ndarray, "*N"]:
    """The one 0/1 version of images that is kept: a draw of `key`, or thresholded (uint8)."""
    return np.asarray(_x(key, images, binarization=binarization, kind=kind))


def sha256(images: np.ndarray) -> str:
    """Hash of shape [N, D] and bytes: two evaluations with the same hash saw the same data."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    digest = hashlib.sha256(str(flat.shape).encode())
    digest.update(flat.tobytes())
    return digest.hexdigest()
