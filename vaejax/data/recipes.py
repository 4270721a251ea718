"""How the images of a data set become x: drawn, thresholded, scaled, dequantised, or kept."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray

from vaejax.config import Config
from vaejax.data import binarization, levels
from vaejax.data.binarization import Images
from vaejax.data.sources import Kind
from vaejax.models import latent_variable


class Recipe(NamedTuple):
    """What is done to images.

    Attributes:
      kind: what their pixels are; whole numbers are 0..levels - 1.
      values: what those of x are. Levels stay whole numbers for a likelihood that is a mass
        over them, and become numbers in [0, 1] for a density.
      binarization: one of `binarization.CHOICES`.
      levels: L.
      dequantize: whether uniform noise fills the step between a level and the next.
    """

    kind: Kind
    values: Kind
    binarization: str = "none"
    levels: int = levels.STORED
    dequantize: bool = False


def of(config: Config, kind: Kind) -> Recipe:
    """What `config` does to images of `kind`."""
    dataset = config.dataset
    if kind == "binary" or dataset.binarization != "none":
        values = "binary"
    else:
        is_mass = latent_variable.data_of(config.model) == "levels"
        values = "levels" if is_mass and kind == "levels" else "real"
    return Recipe(kind, values, dataset.binarization, dataset.levels, dataset.dequantize)


def prepare(key: PRNGKeyArray, images: Images, recipe: Recipe) -> Float[Array, "*N"]:
    """x of images, float32, of their shape; pure, for use inside jit.

    `key` is that of this batch, and is used where x is drawn.
    """
    if recipe.kind == recipe.values:
        return images.astype(jnp.float32)
    if recipe.values == "binary":
        return binarization.binarized(key, images, recipe.binarization).astype(jnp.float32)
    if recipe.dequantize:
        return levels.dequantized(key, images, recipe.levels)
    return levels.scaled(images, recipe.levels)


_prepared = functools.partial(jax.jit, static_argnames="recipe")(prepare)


def fixed(
    key: PRNGKeyArray, images: Num[np.ndarray, "*N"], recipe: Recipe
) -> Num[np.ndarray, "*N"]:
    """The one x of images that is kept: whole numbers in uint8, others in float32."""
    if recipe.kind == recipe.values:
        return images
    x = np.asarray(_prepared(key, images, recipe))
    return x.astype(np.uint8) if recipe.values == "binary" else x


def mean(images: Num[np.ndarray, "N *D"], recipe: Recipe) -> Float[np.ndarray, "*D"]:
    """The mean x over images, in units of x, float64; where x is drawn, over its draws too."""
    average = images.mean(axis=0, dtype=np.float64)
    if recipe.kind == recipe.values or recipe.kind == "real":
        return average
    if recipe.values == "real" and recipe.dequantize:
        return (average + 0.5) / recipe.levels
    return average / (recipe.levels - 1.0)


def description(recipe: Recipe, seed: int) -> str:
    """What the values of x are, for a protocol: densities and masses never read alike."""
    if recipe.values == "binary":
        return "0 and 1"
    if recipe.kind == "real":
        return "as stored, in [0, 1]"
    stored = "" if recipe.levels == levels.STORED else f" of {levels.STORED} levels"
    if recipe.values == "levels":
        return f"whole numbers 0..{recipe.levels - 1}{stored}"
    if recipe.dequantize:
        return (
            f"(level 0..{recipe.levels - 1}{stored} + u) / {recipe.levels}, u fixed (seed {seed})"
        )
    return f"level / {recipe.levels - 1}{stored}"
