"""From a config to the arrays a run works on: training images and held-out x."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vaejax.config import Config
from vaejax.data import binarization
from vaejax.data import sources as datasets
from vaejax.errors import UserError, unknown
from vaejax.types import DataSpec

SPLITS = ("train", "validation", "test")


class HeldOut(NamedTuple):
    """One split as it is evaluated.

    Attributes:
      x: [N, D]: 0/1 (one fixed draw) or intensities in [0, 1].
      shape: shape of one image.
      binarization: "fixed (seed s)" or "none".
      sha256: hash of the 0/1 values, or of the raw images where nothing is binarised.
    """

    x: Float[np.ndarray, "N D"] | UInt8[np.ndarray, "N D"]
    shape: tuple[int, ...]
    binarization: str
    sha256: str


class TrainingData(NamedTuple):
    """What training sees: never the test split.

    Attributes:
      images: [N, D] uint8, binarised anew at every step where the config says so.
      validation: the held-out end of the train split, or None.
      spec: shape and mean of the training images.
    """

    images: UInt8[np.ndarray, "N D"]
    validation: HeldOut | None
    spec: DataSpec


def _held_out(images: UInt8[np.ndarray, "N H W C"], config: Config) -> HeldOut:
    flat = images.reshape(len(images), -1)
    if config.dataset.binarization == "none":
        x = np.asarray(binarization.intensities(flat), np.float32)
        return HeldOut(x, images.shape[1:], "none", binarization.sha256(flat))
    seed = config.dataset.binarization_seed
    x = binarization.fixed(flat, seed=seed)
    return HeldOut(x, images.shape[1:], f"fixed (seed {seed})", binarization.sha256(x))


def _load(config: Config, split: str) -> UInt8[np.ndarray, "N H W C"]:
    return datasets.load(config.dataset.name, split, data_dir=config.dataset.data_dir)


def _split_train(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Training images and the validation images cut from their end."""
    images = _load(config, config.dataset.train_split)
    count = config.dataset.num_validation
    if count >= len(images):
        raise UserError(
            f"config.dataset.num_validation: must leave training images, got {count} of "
            f"{len(images)}"
        )
    first = len(images) - count
    return images[:first], images[first:]


def training_data(config: Config) -> TrainingData:
    """Training images, validation set and what the model must know of them.

    Raises:
      UserError: the dataset cannot be read, or is smaller than a batch.
    """
    images, validation = _split_train(config)
    if len(images) < config.training.batch_size:
        raise UserError(
            f"config.training.batch_size: at most the {len(images)} training images, got "
            f"{config.training.batch_size}"
        )
    flat = images.reshape(len(images), -1)
    spec = DataSpec(images.shape[1:], flat.mean(axis=0, dtype=np.float64) / 255.0)
    held_out = _held_out(validation, config) if len(validation) else None
    return TrainingData(flat, held_out, spec)


def held_out(config: Config, split: str) -> HeldOut:
    """The "train", "validation" or "test" images as they are evaluated.

    Raises:
      UserError: unknown or empty split, or unreadable dataset.
    """
    if split not in SPLITS:
        raise unknown("--split", split, SPLITS)
    if split == "test":
        return _held_out(_load(config, config.dataset.test_split), config)
    train, validation = _split_train(config)
    images = train if split == "train" else validation
    if not len(images):
        raise UserError("--split: validation is empty; set config.dataset.num_validation above 0")
    return _held_out(images, config)
