"""From a config to the arrays a run works on: training images and held-out x."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from vaejax import keys
from vaejax.config import Config
from vaejax.data import binarization, sources
from vaejax.data.sources import Kind, Source
from vaejax.errors import UserError, unknown
from vaejax.types import DataSpec

SPLITS = ("train", "validation", "test")
Sources = Mapping[str, Source]


class HeldOut(NamedTuple):
    """One split as it is evaluated.

    Attributes:
      x: [N, H, W, C]: 0/1 in uint8, or numbers in [0, 1] in float32.
      binarization: "fixed (seed s)", "threshold" or "none".
      sha256: hash of the 0/1 values, or of the raw images where nothing is binarised.
      kind: of x: "binary", or "levels" (x is a level / 255) or "real".
    """

    x: Float[np.ndarray, "N H W C"] | UInt8[np.ndarray, "N H W C"]
    binarization: str
    sha256: str
    kind: Kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.x.shape[1:]


class TrainingData(NamedTuple):
    """What training sees: never the test split.

    Attributes:
      images: [N, H, W, C], of which `binarization.prepare` makes the x of a batch: grey
        levels or floats where each batch is drawn anew or nothing is binarised, 0/1 (uint8)
        where x is fixed once and for all.
      kind: of `images`.
      validation: the held-out part of the train split, a split of its own, or None.
      spec: shape of an image, and mean of x in its units.
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
        images, kind = _binarized(train, config, "train"), "binary"
    mean = images.mean(axis=0, dtype=np.float64) / (255.0 if kind == "levels" else 1.0)
    held_out = _held_out(validation, config, "validation") if validation else None
    return TrainingData(images, kind, held_out, DataSpec(images.shape[1:], mean))


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


def check_likelihood(config: Config, kind: Kind, *, wanted: Literal["binary", "real"]) -> None:
    """Refuses x that a likelihood does not model.

    Args:
      config: says how images become x.
      kind: of the images, as `TrainingData.kind`.
      wanted: what the likelihood models: 0 or 1, or real numbers.

    Raises:
      UserError: x is something else.
    """
    choice, likelihood = config.dataset.binarization, config.model.likelihood
    found = binarization.kind_of_x(kind, choice)
    words = {"levels": "grey levels", "real": "numbers between 0 and 1", "binary": "0 or 1"}
    if wanted == "binary" and found != "binary":
        raise UserError(
            f"config.dataset.binarization: {choice!r} gives {words[found]}, model.likelihood="
            f"{likelihood} needs 0 or 1; set dataset.binarization=dynamic or another "
            f"model.likelihood"
        )
    if wanted == "real" and found == "binary":
        raise UserError(
            f"config.model.likelihood: {likelihood} is a density, and x is 0 or 1 with "
            f"dataset.binarization={choice!r}; set dataset.binarization=none (images that are "
            f"0 or 1 need a mass, such as model.likelihood=bernoulli)"
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
    return source


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


def _key(config: Config, split: str) -> PRNGKeyArray:
    """Of a split's fixed draw. The test split's is the seed's own: published hashes say so."""
    seed = config.dataset.binarization_seed
    if split == "test":
        return jax.random.key(seed)
    return keys.domain(seed, f"binarization/{split}")


def _binarized(source: Source, config: Config, split: str) -> UInt8[np.ndarray, "N H W C"]:
    choice = config.dataset.binarization
    return binarization.fixed(
        _key(config, split), source.images, binarization=choice, kind=source.kind
    )


def _held_out(source: Source, config: Config, split: str) -> HeldOut:
    choice = config.dataset.binarization
    if choice == "none":
        whole = source.kind == "binary"
        x = source.images if whole else np.asarray(binarization.intensities(source.images))
        return HeldOut(x, "none", binarization.sha256(source.images), source.kind)
    x = _binarized(source, config, split)
    how = choice if choice == "threshold" else f"fixed (seed {config.dataset.binarization_seed})"
    return HeldOut(x, how, binarization.sha256(x), "binary")
