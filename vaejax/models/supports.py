"""Which latents there are: all real vectors, or a finite set of states that can be counted."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vaejax.types import Support

REAL = Support()
BINARY = Support("binary")


def one_of(num_classes: int) -> Support:
    """Groups of `num_classes` values, in each of which one is 1 and the others are 0."""
    return Support("one_of", num_classes)


def described(support: Support) -> str:
    """A support as a message says it."""
    known = {"real": "real vectors", "binary": "vectors of 0 and 1"}
    return known.get(support.values, f"choices of one of {support.num_classes} classes")


def nearest_prior(support: Support) -> str:
    """The simplest prior over a support, as a config names it."""
    known = {"real": "normal", "binary": "bernoulli"}
    return known.get(support.values, f"categorical(num_classes={support.num_classes})")


def num_states(support: Support, size: int) -> int:
    """How many vectors of `size` values a discrete support has: 2^Z, or C^(Z/C).

    Raises:
      ValueError: a support that cannot be counted.
    """
    if support.values == "real":
        raise ValueError("real vectors cannot be counted")
    if support.values == "binary":
        return 2**size
    return support.num_classes ** (size // support.num_classes)


def state(support: Support, size: int, number: Int[Array, ""]) -> Float[Array, "Z"]:
    """State `number`, from 0 to `num_states` - 1 < 2^31: its digits to the base 2 or C."""
    if support.values == "binary":
        return ((number >> jnp.arange(size)) & 1).astype(float)
    classes = support.num_classes
    digits = number // classes ** jnp.arange(size // classes) % classes
    return jax.nn.one_hot(digits, classes, dtype=float).reshape(-1)


def num_others(support: Support) -> int:
    """How many other values one latent, or one choice, may take."""
    return 1 if support.values == "binary" else support.num_classes - 1


def num_groups(support: Support, size: int) -> int:
    """How many latents, or choices, can be changed one at a time."""
    return size if support.values == "binary" else size // support.num_classes


def others(support: Support, z: Float[Array, "Z"], group: Int[Array, ""]) -> Float[Array, "O Z"]:
    """The states that differ from z in one latent, or one choice, alone.

    Written with a mask: in a loop of XLA:CPU (jaxlib 0.10.2) an update of a slice by another one
    of the same vector came out wrong.
    """
    if support.values == "binary":
        return jnp.where(jnp.arange(z.shape[0]) == group, 1.0 - z, z)[None]
    choices = z.reshape(-1, support.num_classes)
    here = jnp.arange(choices.shape[0])[:, None] == group
    turned = [jnp.roll(choices, by, axis=1) for by in range(1, support.num_classes)]
    return jnp.stack([jnp.where(here, other, choices).reshape(-1) for other in turned])


def with_unit(
    support: Support, z: Float[Array, "Z"], unit: Int[Array, ""], value: Float[Array, ""]
) -> Float[Array, "Z"]:
    """z with one unit at `value`; of discrete latents a state, the unit 1 if `value` > 1/2.

    A class that is left gives way to the first of the others.
    """
    if support.values == "real":
        return z.at[unit].set(value)
    return nearest(support, z.at[unit].set(jnp.where(value > 0.5, 2.0, -1.0)))


def nearest(support: Support, z: Float[Array, "Z"]) -> Float[Array, "Z"]:
    """The nearest latent that there is: z itself, each value rounded, or the largest of a group."""
    if support.values == "real":
        return z
    if support.values == "binary":
        return (z > 0.5).astype(z.dtype)
    groups = z.reshape(-1, support.num_classes)
    largest = jnp.argmax(groups, axis=1)
    return jax.nn.one_hot(largest, support.num_classes, dtype=z.dtype).reshape(-1)
