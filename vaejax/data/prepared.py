"""TFDS datasets that lie prepared on disk, read without TensorFlow and without downloads.

A module of `vaejax.data.bundled` is a data set this package prepares itself; every other name
is looked for under the data directory.
"""

import contextlib
import errno
import functools
import importlib
import io
import os
import pathlib
import pkgutil
import re
import sys
import warnings
from collections.abc import Mapping

import filelock
import numpy as np

from vaejax.data import bundled
from vaejax.errors import UserError, nearest, unknown

BUNDLED: tuple[str, ...] = tuple(module.name for module in pkgutil.iter_modules(bundled.__path__))
_HOME = "~/tensorflow_datasets"
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP)


def data_directory(data_dir: str | None) -> pathlib.Path:
    """`data_dir`, else the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: empty text, or `~` stands for no home that can be found.
    """
    if data_dir is not None and not data_dir.strip():
        raise UserError(f"dataset.data_dir: needs a folder, got {data_dir!r}; leave it out or none")
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or _HOME
    try:
        return pathlib.Path(chosen).expanduser()
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"dataset.data_dir: {chosen!r} stands for no home that can be found; set it, or "
            f"TFDS_DATA_DIR, in full"
        ) from error


def locate(name: str, data_dir: str | None) -> pathlib.Path:
    """The folder of the newest prepared version of a dataset; bundled ones are prepared.

    Raises:
      UserError: it is not prepared, or the data directory cannot be read or written.
    """
    root = data_directory(data_dir)
    if name in BUNDLED:
        root = _prepare_bundled(name, root)
    try:
        folder = root / name
        versions = [
            path
            for path in (folder.iterdir() if folder.is_dir() else [])
            if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
        ]
    except (OSError, ValueError) as error:
        raise UserError(f"dataset.name={name!r}: {root} cannot be read: {_line(error)}") from error
    if not versions:
        raise _unprepared(name, root)
    return max(versions, key=lambda path: tuple(int(part) for part in path.name.split(".")))


def _unprepared(name: str, root: pathlib.Path) -> UserError:
    try:
        prepared = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    except OSError:
        prepared = []
    known = sorted({*BUNDLED, *prepared})
    return UserError(
        f"dataset.name: {name!r} is not prepared under {root}{nearest(name, known)} "
        f"(bundled: {', '.join(BUNDLED)}); prepare it with: pip install -e '.[prepare]' && "
        f"tfds build {name} --file_format=array_record --data_dir={root}, or set "
        f"dataset.data_dir or TFDS_DATA_DIR, or name a .npz file of images"
    )


def _builder(folder: pathlib.Path, where: str):
    """Opened from its own metadata."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # tfds and protobuf raise many kinds for a broken folder
        raise UserError(f"{where}: {folder} is broken: {_line(error)}") from error


def sizes(folder: pathlib.Path, where: str) -> Mapping[str, int]:
    """Examples of each split. Raises UserError where the metadata are broken."""
    builder = _builder(folder, where)
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def read(folder: pathlib.Path, split: str, where: str) -> np.ndarray:
    """All images of one split, [N, ...], in the order they are stored; decoded once per process.

    Raises:
      UserError: unknown or empty split, no image feature, images that are no arrays or
        change shape, or damaged files.
    """
    try:
        stamp = tuple(
            (entry.name, entry.stat().st_mtime_ns, entry.stat().st_size)
            for entry in sorted(folder.iterdir())
        )
        return _read(folder.resolve(), split, where, stamp)
    except OSError as error:
        raise UserError(f"{where}: {folder} cannot be read: {_line(error)}") from error


@functools.lru_cache(maxsize=8)
def _read(folder: pathlib.Path, split: str, where: str, stamp: tuple) -> np.ndarray:
    """Cached by times and sizes of the files, so that changed ones are read again."""
    builder = _builder(folder, where)
    _check_split(builder, where, split)
    try:
        # tfds warns about the optional OpenCV; Pillow decodes the same bytes.
        with warnings.catch_warnings(action="ignore"):
            images = [_image(example, where) for example in builder.as_data_source(split=split)]
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds for damaged bytes
        raise UserError(f"{where}: cannot be read from {folder}: {_line(error)}") from error
    if not images:
        raise UserError(f"{where}: is empty; at least one image is needed")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = ", ".join(map(str, sorted(shapes)[:3]))
        raise UserError(f"{where}: images change shape ({some}); all must have one shape")
    return np.stack(images)


def labels(folder: pathlib.Path, split: str, where: str) -> list[str] | None:
    """The class of each example of a split by name, in the order they are stored; None where
    the feature `label` is not there, or is no class. Raises UserError as `read` does.
    """
    builder = _builder(folder, where)
    _check_split(builder, where, split)
    features = dict(getattr(builder.info.features, "items", dict)())
    names = getattr(features.get("label"), "names", None)
    if not names:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return [names[int(row["label"])] for row in builder.as_data_source(split=split)]
    except Exception as error:  # decoders raise many kinds for damaged bytes
        raise UserError(f"{where}: cannot be read from {folder}: {_line(error)}") from error


def _image(example: Mapping, where: str) -> np.ndarray:
    if "image" not in example:
        raise UserError(f"{where}: needs a feature 'image', has {', '.join(sorted(example))}")
    image = example["image"]
    if not isinstance(image, (np.ndarray, np.generic)) or image.dtype.kind not in "biuf":
        kind = getattr(image, "dtype", type(image).__name__)
        raise UserError(f"{where}: feature 'image' needs arrays of numbers, has {kind}")
    return np.asarray(image)


def _check_split(builder, where: str, split: str) -> None:
    legal = list(builder.info.splits)
    base = re.match(r"[^\[+]*", split).group()
    if base not in legal:
        raise unknown(where, split, legal)
    try:
        empty = not builder.info.splits[split].num_examples
    except Exception as error:  # a slice that cannot be read: "train[:2%", "train[5:2]"
        raise UserError(f"{where}: {_line(error)}") from error
    if empty:
        raise UserError(f"{where}: is empty")


def _prepare_bundled(name: str, root: pathlib.Path) -> pathlib.Path:
    """Prepares under `root`, or the user's own folder where that is read-only or
    has no file locks; returns which."""
    try:
        _prepare(name, root)
    except OSError as error:
        own = data_directory(_HOME)
        if error.errno not in _UNUSABLE or own == root:
            raise _cannot_prepare(name, root, error) from error
        try:
            _prepare(name, own)
        except OSError as second:
            raise _cannot_prepare(name, own, second) from second
        _say_once(f"{root} cannot be written; {name!r} is prepared under {own} instead")
        return own
    return root


@functools.cache
def _say_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _cannot_prepare(name: str, root: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"dataset.data_dir: cannot prepare {name!r} under {root}: {_line(error)}")


def _prepare(name: str, root: pathlib.Path) -> None:
    """Writes the dataset under `root` unless it is there; safe beside other processes."""
    import tensorflow_datasets as tfds

    builder_class = getattr(importlib.import_module(f"{bundled.__name__}.{name}"), name.title())
    if (root / name / str(builder_class.VERSION) / "dataset_info.json").is_file():
        return
    root.mkdir(parents=True, exist_ok=True)
    with (
        filelock.FileLock(root / f".{name}.lock"),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        tfds.disable_progress_bar()
        builder = builder_class(data_dir=str(root), file_format="array_record")
        builder.download_and_prepare()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
