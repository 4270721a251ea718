"""Reading .npz files that may hold anything, alone or tied to the JSON beside them."""

import io
import os
import pathlib
from typing import Any

import numpy as np

from vaejax.errors import UserError
from vaejax.storage import files, json_files


def read_npz(path: pathlib.Path, *, advice: str = "") -> dict[str, np.ndarray]:
    """All arrays of a .npz by name; pickles are never loaded.

    Raises:
      UserError: the file is missing, truncated, damaged, or holds something else.
    """
    return _parse(path, _content(path, advice), advice)


def _content(path: pathlib.Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), advice) from error


def _parse(path: pathlib.Path, content: bytes, advice: str) -> dict[str, np.ndarray]:
    if not content.startswith(b"PK"):
        raise _unreadable(path, "is no .npz file", advice)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except Exception as error:  # a flipped byte raises whatever stumbles over it
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "holds pickled objects" if "allow_pickle" in text else f"damaged ({text[:100]})"
        raise _unreadable(path, reason, advice) from error
    for name, value in found.items():
        if not isinstance(value, np.ndarray):  # a member that is no .npy comes as bytes
            raise _unreadable(path, f"{name} is no array", advice)
    return found


def _unreadable(path: pathlib.Path, reason: str, advice: str) -> UserError:
    return UserError(f"{path}: cannot be read: {reason}{'; ' + advice if advice else ''}")


def read_tied(
    json_path: pathlib.Path,
    npz_path: pathlib.Path | None = None,
    *,
    schema: json_files.Schema = json_files.EVALUATION,
    advice: str = "evaluate the run again",
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A result and its arrays, as `files.write_tied` left them.

    Args:
      json_path: carries `arrays_sha256`, the hash of the other's bytes.
      npz_path: None: beside the JSON.
      schema: what the JSON must hold.
      advice: what to do where they cannot be read.

    Raises:
      UserError: one is missing or broken, or they do not belong together.
    """
    npz_path = json_path.with_suffix(".npz") if npz_path is None else npz_path
    for path, other in ((json_path, npz_path), (npz_path, json_path)):
        if not os.path.lexists(path) and os.path.lexists(other):
            raise UserError(f"{path} is missing beside {other.name}; {advice}")
    result = json_files.read_json(json_path, schema, advice=advice)
    content = _content(npz_path, advice)
    if not isinstance(result, dict) or result.get("arrays_sha256") != files.sha256(content):
        raise UserError(f"{json_path} and {npz_path.name} do not belong together; {advice}")
    return result, _parse(npz_path, content, advice)
