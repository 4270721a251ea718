"""Images with their kind: from TFDS, from a .npz or .npy file, or from arrays in Python."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vaejax.data import array_files, prepared, slices
from vaejax.errors import UserError

Kind = Literal["binary", "levels", "real"]
"""What pixels are: 0 and 1; whole numbers 0..255; or numbers in [0, 1]."""


class Source(NamedTuple):
    """All images of one split, read-only.

    Attributes:
      images: [N, H, W, C]; uint8 where binary or levels, float32 where real.
      kind: what its pixels are.
    """

    images: UInt8[np.ndarray, "N H W C"] | Float[np.ndarray, "N H W C"]
    kind: Kind


def load(name: str, split: str, *, data_dir: str | None = None) -> Source:
    """All images of one split, in the order they are stored; decoded once per process.

    Args:
      name: a bundled dataset, a TFDS one that is prepared ("mnist", "name/config"), or the
        path of a .npz with arrays `train`, `test` and perhaps `validation`, or of a .npy,
        whose one array is `train`.
      split: of the dataset, slices included ("train", "test[:1000]", "train[80%:]").
      data_dir: where prepared datasets, and files of a relative path, lie.

    Raises:
      UserError: unknown dataset or split, unreadable or empty data, or images that are no
        numbers, of changing shape or out of range.
    """
    if array_files.is_file_name(name):
        return select(_from_file(name, data_dir), split, where=f"split of {name!r}")
    folder = prepared.locate(name, data_dir)
    where = f"split of dataset {name!r}: {split!r}"
    return _sources({split: prepared.read(folder, split, where)}, where)[split]


def _from_file(name: str, data_dir: str | None) -> dict[str, Source]:
    path = array_files.locate(name, data_dir)
    where = f"dataset.name={str(path)!r}"
    return _sources(array_files.read(path, where), where)


def sizes(name: str, *, data_dir: str | None = None) -> Mapping[str, int]:
    """Number of images of each split. Raises UserError as `load` does."""
    if array_files.is_file_name(name):
        return {key: len(item.images) for key, item in _from_file(name, data_dir).items()}
    return prepared.sizes(prepared.locate(name, data_dir), f"dataset.name={name!r}")


def labels(name: str, split: str, *, data_dir: str | None = None) -> list[str] | None:
    """The class of each image that `load` gives, in its order; None where there are none.

    They are the feature `label` of a TFDS dataset, and the arrays `test_labels`, .. of a .npz.

    Raises:
      UserError: as `load`, or labels that do not belong to the images.
    """
    if not array_files.is_file_name(name):
        folder = prepared.locate(name, data_dir)
        return prepared.labels(folder, split, f"split of dataset {name!r}: {split!r}")
    path, found = array_files.locate(name, data_dir), []
    where, counts = f"dataset.name={str(path)!r}", sizes(name, data_dir=data_dir)
    for part in slices.parse(split, counts, where=f"split of {name!r}"):
        own = array_files.labels(path, part.name, where)
        if own is None:
            return None
        if len(own) != counts[part.name]:
            raise UserError(
                f"{where}: needs as many {part.name}{array_files.LABELS} as images, "
                f"{counts[part.name]}, got {len(own)}"
            )
        found += own[part.start : part.stop]
    return found


def from_arrays(
    train: np.ndarray, test: np.ndarray, validation: np.ndarray | None = None
) -> dict[str, Source]:
    """Arrays [N, H, W] or [N, H, W, C] as the splits of a data set, by name.

    Raises:
      UserError: no numbers, NaN, negative, floats above 1, whole numbers above 255, no
        images, or splits of different shapes.
    """
    arrays = {"train": train, "test": test, "validation": validation}
    given = {name: np.array(value) for name, value in arrays.items() if value is not None}
    return _sources(given, "from_arrays")


def select(sources: Mapping[str, Source], split: str, *, where: str) -> Source:
    """The slice of a data set's splits that `split` names. Raises UserError."""
    counts = {name: len(source.images) for name, source in sources.items()}
    parts = [
        sources[part.name].images[part.start : part.stop]
        for part in slices.parse(split, counts, where=where)
    ]
    images = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not len(images):
        raise UserError(f"{where}: {split!r} is empty; at least one image is needed")
    images.setflags(write=False)
    return Source(images, next(iter(sources.values())).kind)


def _sources(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, Source]:
    """Checked arrays of one data set: of one shape and one kind."""
    found = {name: _checked(value, f"{where}: {name}") for name, value in arrays.items()}
    shapes = {value.shape[1:] for value in found.values()}
    if len(shapes) > 1:
        each = ", ".join(f"{name} {value.shape[1:]}" for name, value in found.items())
        raise UserError(f"{where}: all splits need images of one shape, got {each}")
    floats = {value.dtype.kind == "f" for value in found.values()}
    most = max(value.max() for value in found.values())
    if len(floats) > 1 and most > 1:
        each = ", ".join(f"{name} {value.dtype}" for name, value in found.items())
        raise UserError(f"{where}: all splits need whole numbers, or all in [0, 1], got {each}")
    # Images that are black all over tell nothing; as levels or reals they do no harm.
    if most == 1 and all(np.isin(value, (0, 1)).all() for value in found.values()):
        kind, dtype = "binary", np.uint8
    else:
        kind, dtype = ("real", np.float32) if True in floats else ("levels", np.uint8)
    cast = {name: value.astype(dtype, copy=False) for name, value in found.items()}
    for value in cast.values():
        value.setflags(write=False)
    return {name: Source(value, kind) for name, value in cast.items()}


def _checked(images: np.ndarray, where: str) -> np.ndarray:
    """[N, H, W, C] in range, as uint8 or floats."""
    if images.dtype.kind not in "biuf":
        raise UserError(
            f"{where}: needs numbers (0/1, whole numbers 0..255, or [0, 1]), got {images.dtype}"
        )
    if images.ndim not in (3, 4):
        raise UserError(
            f"{where}: needs images of shape [N, H, W] or [N, H, W, C], got {images.shape}"
        )
    if not images.size:
        raise UserError(f"{where}: is empty, shape {images.shape}; at least one image is needed")
    images = images[..., None] if images.ndim == 3 else images
    low, high = images.min(), images.max()  # NaN where there is one
    if images.dtype.kind != "f":
        if low < 0 or high > 255:
            raise UserError(f"{where}: whole numbers must be 0..255, got {low}..{high}")
        return images.astype(np.uint8, copy=False)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{where}: numbers must be finite, got NaN or infinity")
    if low < 0 or high > 1:
        raise UserError(
            f"{where}: numbers that are not whole must lie in [0, 1], got {low:g}..{high:g}; "
            f"scale them, or store grey levels 0..255 as uint8"
        )
    return images


def check_disjoint(
    counts: Mapping[str, int], splits: Mapping[str, str | None], *, where: str
) -> None:
    """Refuses two splits of a config that have images in common.

    Args:
      counts: images of each split of the data set.
      splits: config key -> text of its split; None: not used.
      where: name of the data set, for errors.
    """
    pieces: dict[str, list[slices.Slice]] = {}
    for key, text in splits.items():
        if text is None:
            continue
        if "shard" in text:  # of TFDS alone; taken as the whole split
            text = text.partition("[")[0]
        mine = slices.parse(text, counts, where=f"config.dataset.{key} of {where}")
        for other, theirs in pieces.items():
            common = slices.overlap(mine, theirs)
            if common:
                raise UserError(
                    f"config.dataset.{other}: {splits[other]!r} and dataset.{key}={text!r} have "
                    f"{common} images in common; choose splits without any"
                )
        pieces[key] = mine
