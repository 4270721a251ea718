"""Images of any TFDS dataset that lies prepared on disk, read without TensorFlow.

A module of `vaejax.data.bundled` is a data set this package prepares itself; every other name
is looked for under the data directory.
"""

import contextlib
import fcntl
import importlib
import io
import os
import pathlib
import pkgutil
import re
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from vaejax.data import bundled
from vaejax.errors import UserError, nearest, unknown

BUNDLED: tuple[str, ...] = tuple(module.name for module in pkgutil.iter_modules(bundled.__path__))


def data_directory(data_dir: str | None) -> pathlib.Path:
    """`data_dir`, else the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser()


def load(name: str, split: str, *, data_dir: str | None = None) -> UInt8[np.ndarray, "N H W C"]:
    """All images of one split, in the order they are stored.

    Args:
      name: a bundled dataset or the name of a TFDS one ("mnist", or "name/config").
      split: TFDS split, slices included ("train", "test", "train[:1000]").
      data_dir: where prepared datasets lie; see `data_directory`.

    Raises:
      UserError: unknown or unprepared dataset, unknown or empty split, no uint8 image
        feature, or images whose shape changes.
    """
    root = data_directory(data_dir)
    if name in BUNDLED:
        _prepare_bundled(name, root)
    builder = _builder(name, root)
    _check_split(builder, name, split)
    where = f"dataset.name={name!r}, split {split!r}"
    try:
        # tfds warns about the optional OpenCV; Pillow decodes the same bytes.
        with warnings.catch_warnings(action="ignore"):
            source = builder.as_data_source(split=split)
            images = [_image(example, where) for example in source]
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"{where}: cannot be read from {builder.data_path}: {_line(error)}"
        ) from error
    return _stack(images, where)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _image(example: dict, where: str) -> UInt8[np.ndarray, "H W C"]:
    if "image" not in example:
        raise UserError(f"{where}: needs a feature 'image', has {', '.join(sorted(example))}")
    return example["image"]


def _stack(images: list, where: str) -> UInt8[np.ndarray, "N H W C"]:
    if not images:
        raise UserError(f"{where}: is empty; at least one image is needed")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = ", ".join(map(str, sorted(shapes)[:3]))
        raise UserError(f"{where}: images change shape ({some}); all must have one shape")
    stacked = np.stack(images)
    if stacked.dtype != np.uint8:
        raise UserError(f"{where}: needs uint8 images, has {stacked.dtype}")
    return stacked


def _version(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.split("."))


def _builder(name: str, root: pathlib.Path):
    """The newest prepared version, opened from its own metadata: never a download."""
    import tensorflow_datasets as tfds

    folder = root / name
    versions = [
        path
        for path in (folder.iterdir() if folder.is_dir() else [])
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
    ]
    if not versions:
        raise _unprepared(name, root)
    newest = max(versions, key=_version)
    try:
        return tfds.builder_from_directory(newest)
    except Exception as error:  # tfds and protobuf raise many kinds for a broken folder
        raise UserError(f"dataset.name={name!r}: {newest} is broken: {_line(error)}") from error


def _unprepared(name: str, root: pathlib.Path) -> UserError:
    prepared = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    known = sorted({*BUNDLED, *prepared})
    return UserError(
        f"dataset.name: {name!r} is not prepared under {root}{nearest(name, known)} "
        f"(bundled: {', '.join(BUNDLED)}); prepare it with: pip install -e '.[prepare]' && "
        f"tfds build {name} --file_format=array_record --data_dir={root}, or set "
        f"dataset.data_dir or TFDS_DATA_DIR"
    )


def _check_split(builder, name: str, split: str) -> None:
    legal = list(builder.info.splits)
    base = re.match(r"[^\[+]*", split).group()
    if base not in legal:
        raise unknown(f"split of dataset {name!r}", split, legal)
    try:
        empty = not builder.info.splits[split].num_examples
    except ValueError as error:  # a slice that cannot be read: "train[:2%"
        raise UserError(f"split of dataset {name!r}: {split!r}: {_line(error)}") from error
    if empty:
        raise UserError(f"dataset.name={name!r}, split {split!r}: is empty")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prepare_bundled(name: str, root: pathlib.Path) -> None:
    """Writes the dataset under `root` unless it is there; safe beside other processes."""
    import tensorflow_datasets as tfds

    builder_class = getattr(importlib.import_module(f"{bundled.__name__}.{name}"), name.title())
    if (root / name / str(builder_class.VERSION) / "dataset_info.json").is_file():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            _lock(root / f".{name}.lock"),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            tfds.disable_progress_bar()
            builder = builder_class(data_dir=str(root), file_format="array_record")
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"dataset.data_dir: cannot prepare {name!r} under {root}: {_line(error)}"
        ) from error
