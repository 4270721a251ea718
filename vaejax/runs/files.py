"""The three files of an evaluation: evaluation.json, its .npz, and evidence.npz beside them."""

import dataclasses
import pathlib

import numpy as np

from vaejax import hosts
from vaejax.errors import UserError
from vaejax.evaluation import results
from vaejax.evaluation.results import Result
from vaejax.storage import arrays as arrays_lib
from vaejax.storage import files


@dataclasses.dataclass(frozen=True)
class Stored:
    """A result with its arrays.

    Attributes:
      result: what evaluation.json holds.
      arrays: per example, of evaluation.npz.
      evidence_arrays: per example, of evidence.npz; none without evidence.
    """

    result: Result
    arrays: dict[str, np.ndarray]
    evidence_arrays: dict[str, np.ndarray]


def path_of(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """The evaluation.json of a split."""
    return workdir / ("evaluation.json" if split == "test" else f"evaluation-{split}.json")


def _evidence_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name.replace("evaluation", "evidence", 1)).with_suffix(".npz")


def require_writable(workdir: pathlib.Path, split: str) -> None:
    """Raises UserError where an evaluation of `split` could not be written."""
    path = path_of(workdir, split)
    names = [path.name, path.with_suffix(".npz").name, _evidence_path(path).name]
    files.require_writable(workdir, [*names, "figures/bounds.png"])


def read(path: pathlib.Path) -> Stored | None:
    """What lies at `path`; None where nothing does.

    Raises:
      UserError: a file is missing, broken or of another version, or they do not belong
        together.
    """
    if not path.exists() and not path.with_suffix(".npz").exists():
        return None
    value, arrays = arrays_lib.read_tied(path, schema=dict)
    try:
        result = results.from_json(value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if result.evidence is None:
        return Stored(result, arrays, {})
    beside = _evidence_path(path)
    found = arrays_lib.read_npz(beside)
    if files.sha256(beside.read_bytes()) != result.evidence.arrays_sha256:
        raise UserError(f"{path} and {beside.name} do not belong together")
    return Stored(result, arrays, found)


def publish(path: pathlib.Path, stored: Stored) -> Stored:
    """Writes all files, each tied to the JSON by its hash, and renames them together.

    Returns:
      `stored` with the hashes.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    content = {path.with_suffix(".npz").name: files.npz_bytes(stored.arrays)}
    result = dataclasses.replace(stored.result, arrays_sha256=files.sha256(*content.values()))
    if result.evidence is not None:
        beside = files.npz_bytes(stored.evidence_arrays)
        content[_evidence_path(path).name] = beside
        tied = dataclasses.replace(result.evidence, arrays_sha256=files.sha256(beside))
        result = dataclasses.replace(result, evidence=tied)
    content[path.name] = files.json_text(results.to_json(result)).encode()
    writers = {name: lambda handle, data=data: handle.write(data) for name, data in content.items()}
    files.publish(path.parent, writers)
    if result.evidence is None and hosts.is_first():
        _evidence_path(path).unlink(missing_ok=True)  # of an earlier result, tied to nothing
    return dataclasses.replace(stored, result=result)
