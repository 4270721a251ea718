"""From a config to the arrays a run works on: training images and held-out x."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from vaejax import keys
from vaejax.config import Config
from vaejax.data import binarization, levels, recipes, sources
from vaejax.data.sources import Kind, Source
from vaejax.errors import UserError, unknown
from vaejax.types import DataSpec

SPLITS = ("train", "validation", "test")
Sources = Mapping[str, Source]


class HeldOut(NamedTuple):
    """One split as it is evaluated.

    Attributes:
      x: [N, H, W, C]: 0/1 or levels in uint8, or numbers in [0, 1] in float32.
      binarization: "fixed (seed s)", "threshold" or "none".
      sha256: hash of x; of the images where x is their levels / (L - 1).
      kind: of x.
      values: what its numbers are, and what was done to the levels, in words.
    """

    x: Float[np.ndarray, "N H W C"] | UInt8[np.ndarray, "N H W C"]
    binarization: str
    sha256: str
    kind: Kind
    values: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.x.shape[1:]


class TrainingData(NamedTuple):
    """What training sees: never the test split.

    Attributes:
      images: [N, H, W, C], of which `recipes.prepare` makes the x of a batch: levels or
        floats where each batch is drawn anew or nothing is binarised, 0/1 (uint8) where x is
        fixed once and for all.
      kind: of `images`.
      validation: the held-out part of the train split, a split of its own, or None.
      spec: shape of an image, mean of x in its units, number of levels.
    """

    images: UInt8[np.ndarray, "N H W C"] | Float[np.ndarray, "N H W C"]
    kind: Kind
    validation: HeldOut | None
    spec: DataSpec


def training_data(config: Config, *, given: Sources | None = None) -> TrainingData:
    """Training images, validation set and what the model must know of them.

    Args:
      config: names data set, splits and binarisation.
      given: splits by name, of `sources.from_arrays`, instead of those of `dataset.name`.

    Raises:
      UserError: the dataset cannot be read, its splits overlap, its images do not suit the
        binarisation, or there are fewer than a batch.
    """
    train, validation = _split_train(config, given)
    if len(train.images) < config.training.batch_size:
        raise UserError(
            f"config.training.batch_size: at most the {len(train.images)} training images, got "
            f"{config.training.batch_size}"
        )
    images, kind = train
    if config.dataset.binarization in ("static", "threshold"):
        images, kind = _fixed(train, config, "train"), "binary"
    mean = recipes.mean(images, recipes.of(config, kind))
    held_out = _held_out(validation, config, "validation") if validation else None
    spec = DataSpec(images.shape[1:], mean, config.dataset.levels)
    return TrainingData(images, kind, held_out, spec)


def num_training(config: Config, *, given: Sources | None = None) -> int:
    """The number of training images. Raises UserError."""
    return len(_split_train(config, given)[0].images)


def held_out(config: Config, split: str, *, given: Sources | None = None) -> HeldOut:
    """The "train", "validation" or "test" images as they are evaluated.

    Raises:
      UserError: unknown or empty split, or as `training_data`.
    """
    if split not in SPLITS:
        raise unknown("--split", split, SPLITS)
    if split == "test":
        _check_disjoint(config, given)
        return _held_out(_load(config, config.dataset.test_split, given), config, split)
    train, validation = _split_train(config, given)
    chosen = train if split == "train" else validation
    if chosen is None:
        raise UserError(
            "--split: validation is empty; set config.dataset.num_validation above 0 or "
            "config.dataset.validation_split"
        )
    return _held_out(chosen, config, split)


def test_labels(config: Config) -> list[str] | None:
    """The class of each test image, in the order of `held_out`; None where there are none.

    Training never sees them. Raises UserError where they cannot be read.
    """
    settings = config.dataset
    return sources.labels(settings.name, settings.test_split, data_dir=settings.data_dir)


def check_likelihood(config: Config, kind: Kind, *, wanted: Kind) -> None:
    """Refuses x that a likelihood does not model.

    Args:
      config: says how images become x.
      kind: of the images, as `TrainingData.kind`.
      wanted: what the likelihood models: 0 or 1, levels, or real numbers.

    Raises:
      UserError: x is something else.
    """
    choice, likelihood = config.dataset.binarization, config.model.likelihood
    is_binary = kind == "binary" or choice != "none"
    words = {"levels": "grey levels", "real": "numbers between 0 and 1", "binary": "0 or 1"}
    if wanted == "binary" and not is_binary:
        raise UserError(
            f"config.dataset.binarization: {choice!r} gives {words[kind]}, model.likelihood="
            f"{likelihood} needs 0 or 1; set dataset.binarization=dynamic or another "
            f"model.likelihood"
        )
    if wanted != "binary" and is_binary:
        what = {"real": "a density", "levels": "a mass over grey or colour levels"}[wanted]
        raise UserError(
            f"config.model.likelihood: {likelihood} is {what}, and x is 0 or 1 with "
            f"dataset.binarization={choice!r}; set dataset.binarization=none (images that are "
            f"0 or 1 need model.likelihood=bernoulli)"
        )
    if wanted == "levels" and kind == "real":
        raise UserError(
            f"config.model.likelihood: {likelihood} is a mass over whole numbers, and the images "
            f"of {config.dataset.name!r} are {words['real']}; store grey levels 0..255 as uint8, "
            f"or set a density such as model.likelihood=normal"
        )


def _load(config: Config, split: str, given: Sources | None) -> Source:
    settings = config.dataset
    if given is not None:
        source = sources.select(given, split, where="split of the arrays given")
    else:
        source = sources.load(settings.name, split, data_dir=settings.data_dir)
    if source.kind == "binary" and settings.binarization != "none":
        raise UserError(
            f"config.dataset.binarization: the images of {settings.name!r} are 0 and 1 already, "
            f"so there is nothing to binarise; set dataset.binarization=none, got "
            f"{settings.binarization!r}"
        )
    changed = {"levels": settings.levels != levels.STORED, "dequantize": settings.dequantize}
    for name, is_set in changed.items():
        if is_set and source.kind != "levels":
            raise UserError(
                f"config.dataset.{name}: needs images of whole numbers 0..255, those of "
                f"{settings.name!r} are {source.kind}; leave it out"
            )
    if source.kind != "levels":
        return source
    return source._replace(images=levels.quantize(source.images, settings.levels))


def _split_train(config: Config, given: Sources | None) -> tuple[Source, Source | None]:
    """Training images, and validation images cut from their end or of a split of their own."""
    _check_disjoint(config, given)
    settings, count = config.dataset, config.dataset.num_validation
    source = _load(config, settings.train_split, given)
    if settings.validation_split is not None:
        if count:
            raise UserError(
                f"config.dataset.num_validation: must be 0 with dataset.validation_split="
                f"{settings.validation_split!r}, which is used whole, got {count}"
            )
        validation = _load(config, settings.validation_split, given)
        if validation.images.shape[1:] != source.images.shape[1:]:
            raise UserError(
                f"config.dataset.validation_split: needs images of the shape of train "
                f"{source.images.shape[1:]}, got {validation.images.shape[1:]}"
            )
        return source, validation
    first = len(source.images) - count
    if first < 1:
        raise UserError(
            f"config.dataset.num_validation: must leave training images, got {count} of "
            f"{len(source.images)}"
        )
    train = source._replace(images=source.images[:first])
    return train, source._replace(images=source.images[first:]) if count else None


def _check_disjoint(config: Config, given: Sources | None) -> None:
    settings = config.dataset
    if given is None:
        counts = sources.sizes(settings.name, data_dir=settings.data_dir)
    else:
        counts = {name: len(source.images) for name, source in given.items()}
    splits = {
        "train_split": settings.train_split,
        "validation_split": settings.validation_split,
        "test_split": settings.test_split,
    }
    sources.check_disjoint(counts, splits, where=repr(settings.name))


def _key(config: Config, split: str, purpose: str) -> PRNGKeyArray:
    """Of a split's fixed draw. The binarised test split's is the seed's own: published hashes
    say so."""
    seed = config.dataset.binarization_seed
    if (split, purpose) == ("test", "binarization"):
        return jax.random.key(seed)
    return keys.domain(seed, f"{purpose}/{split}")


def _fixed(source: Source, config: Config, split: str) -> np.ndarray:
    """The one x of a split that is kept."""
    recipe = recipes.of(config, source.kind)
    purpose = "binarization" if recipe.values == "binary" else "dequantization"
    return recipes.fixed(_key(config, split, purpose), source.images, recipe)


def _held_out(source: Source, config: Config, split: str) -> HeldOut:
    settings, recipe = config.dataset, recipes.of(config, source.kind)
    x, how = _fixed(source, config, split), settings.binarization
    if how in ("dynamic", "static"):
        how = f"fixed (seed {settings.binarization_seed})"
    hashed = source.images if recipe.values == "real" and not recipe.dequantize else x
    values = recipes.description(recipe, settings.binarization_seed)
    return HeldOut(x, how, binarization.sha256(hashed), recipe.values, values)
