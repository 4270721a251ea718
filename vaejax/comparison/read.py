"""Reading the runs of a comparison: folders to `Run`s, every file checked before it is used."""

import hashlib
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from vaejax.comparison import statistics
from vaejax.comparison.statistics import Run
from vaejax.errors import UserError, unknown
from vaejax.evaluation import terminal
from vaejax.storage import json_files
from vaejax.storage import workdir as workdir_lib

_GROUPS, _FAILED = "groups.json", "failed.json"
_METRICS = ("step", "epoch", "seconds", "validation/elbo", "validation/iwae")


class Folders(NamedTuple):
    """What the arguments of a comparison stand for.

    Attributes:
      runs: folders of runs, each once, as they were given.
      failed: configs of members of sweeps that failed.
    """

    runs: list[pathlib.Path]
    failed: list[dict[str, Any]]


def expand(paths: Sequence[str], console: Console) -> Folders:
    """Run folders; the folder of a sweep gives those of its members that did not fail.

    Raises:
      UserError: nothing given, no finished run, one run given twice (symbolic links and
        relative paths are followed), or a list of members that is none.
    """
    if not paths:
        raise UserError("RUN: at least one folder of a run, or of a sweep, is needed")
    found = Folders([], [])
    for path in map(pathlib.Path, paths):
        if not (path / _GROUPS).is_file():
            found.runs.append(path)
            continue
        for member in _members(path):
            if (member / _FAILED).is_file():
                _say(console, f"{member} failed and is left out")
                found.failed.extend(_config_of_failed(member))
            elif not member.is_dir():
                _say(console, f"{member} is gone and is left out")
            else:
                found.runs.append(member)
    seen: dict[pathlib.Path, pathlib.Path] = {}
    for folder in found.runs:
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:
            also = "" if str(first) == str(folder) else f" ({first} is the same folder)"
            raise UserError(f"RUN: {folder} is given twice{also}")
    if not found.runs:
        raise UserError(f"RUN: {paths[0]} holds no finished run")
    return found


def _say(console: Console, text: str) -> None:
    console.print(terminal.literal(terminal.one_line(text), console.encoding), soft_wrap=True)


def _members(sweep: pathlib.Path) -> list[pathlib.Path]:
    def legal(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(group, list) and all(map(_is_folder_name, group)) for group in value
        )

    path = sweep / _GROUPS
    groups = checked_json(path, legal, "a list of lists of names of members")
    return [sweep / name for group in groups for name in group]


def _is_folder_name(name: Any) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or {*name} & {"/", "\0"}:
        return False
    content = name.encode(errors="replace")  # half a surrogate pair becomes a question mark
    return len(content) <= 255 and content.decode() == name


def _config_of_failed(member: pathlib.Path) -> list[dict[str, Any]]:
    path = member / workdir_lib.CONFIG
    return [_config(path)] if path.is_file() else []


def names(folders: Sequence[pathlib.Path]) -> list[str]:
    """What the runs are called: the last part of their paths, or all of it where that is
    not unique; control characters are spelt out.
    """
    short = [folder.name or folder.resolve().name for folder in folders]
    chosen = short if len({*short}) == len(short) else [str(folder) for folder in folders]
    return [terminal.one_line(name) for name in chosen]


def baseline_run(
    baseline: str | None, folders: Sequence[pathlib.Path], found: Sequence[Run]
) -> Run:
    """The run that the flag names, by its folder or its name; the first without the flag."""
    if baseline is None:
        return found[0]
    wanted = pathlib.Path(baseline).resolve()
    by_folder = [folder.resolve() == wanted for folder in folders]
    by_name = [baseline == run.name for run in found]
    for matches in (by_folder, by_name):
        if any(matches):
            return found[matches.index(True)]
    raise unknown("--baseline", baseline, [str(folder) for folder in folders])


def run(folder: pathlib.Path, name: str) -> Run:
    """The evaluation of the run in `folder`.

    Raises:
      UserError: it is missing, broken, of K = 1, or its files do not belong together.
    """
    if not (folder / workdir_lib.CONFIG).is_file():
        raise workdir_lib.no_run(folder)
    path, arrays_path = folder / workdir_lib.EVALUATION, folder / workdir_lib.PER_EXAMPLE
    if not path.is_file() or not arrays_path.is_file():
        raise UserError(
            f"{folder}: has no evaluation; run python scripts/evaluate.py --workdir={folder} first"
        )
    config = _config(folder / workdir_lib.CONFIG)
    result = checked_json(path, _is_evaluation, "an evaluation by scripts/evaluate.py")
    values, variances = _arrays(arrays_path, result)
    found = Run(name, config, result, values, variances, _metrics(folder / workdir_lib.METRICS))
    if not any(bound.startswith("iwae_") for bound in statistics.bound_names([found])):
        raise UserError(
            f"{folder}: was evaluated with K = 1, so there is no L_K beside the ELBO to compare; "
            f"run python scripts/evaluate.py --workdir={folder} --num_samples=K with K >= 2"
        )
    return found


def checked_json(path: pathlib.Path, legal: Callable[[Any], bool], what: str) -> Any:
    """The JSON at `path`. Raises UserError where it is missing, broken or not `legal`."""
    try:
        value = workdir_lib.read_json(path)
        if legal(value):
            return value
    except RecursionError as error:
        raise UserError(f"{path}: cannot be read: nested too deeply") from error
    raise UserError(f"{path}: cannot be read: it is not {what}")


def _config(path: pathlib.Path) -> dict[str, Any]:
    values = checked_json(
        path, lambda v: isinstance(v, dict) and type(v.get("seed")) is int, "the config of a run"
    )
    workdir_lib.check_version(path, values)
    return values


def _is_evaluation(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    protocol, estimates = value.get("protocol"), value.get("estimates")
    if not isinstance(protocol, dict) or not isinstance(estimates, dict):
        return False
    texts = all(isinstance(protocol.get(key), str) for key in ("dataset", "split"))
    counts = (protocol.get(key) for key in ("num_examples", "num_samples"))
    texts = texts and isinstance(protocol.get("biased_gradient"), str | None)
    return texts and all(type(count) is int and 0 < count < 2**63 for count in counts)


def _arrays(path: pathlib.Path, result: dict[str, Any]) -> tuple[dict, dict]:
    """Per-example values and variances by estimate, [N] each, tied to `result` by their hash."""
    again = f"run python scripts/evaluate.py --workdir={path.parent} again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    wanted = result.get("arrays_sha256")
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise UserError(
            f"{path}: does not belong to {workdir_lib.EVALUATION} beside it (its hash is not "
            f"arrays_sha256); {again}"
        )
    try:
        with np.load(io.BytesIO(content)) as arrays:
            values = {k[6:]: arrays[k] for k in arrays.files if k.startswith("value/")}
            variances = {k[12:]: arrays[k] for k in arrays.files if k.startswith("mc_variance/")}
        _check_arrays(values, variances, result)
    except Exception as error:  # a broken archive can raise nearly anything (zip, zlib, struct)
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({text}); {again}") from error
    return values, variances


def _check_arrays(values: dict, variances: dict, result: dict[str, Any]) -> None:
    count = result["protocol"]["num_examples"]
    needed = ["elbo", *(name for name in result["estimates"] if name.startswith("iwae_"))]
    for name in needed:
        if name not in values:
            raise ValueError(f"holds no value/{name}")
    for name, array in values.items():
        if name not in variances:
            raise ValueError(f"holds no mc_variance/{name}")
        for numbers in (array, variances[name]):
            if numbers.shape != (count,) or numbers.dtype.kind not in "fiu":
                raise ValueError(f"needs {count} values per estimate, and numbers")


def _metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, none where it is absent; a half-written last line is left out."""
    rows = json_files.read_metrics(path)
    for number, row in enumerate(rows, 1):
        if not _is_metrics(row):
            raise UserError(f"{path}: line {number} cannot be read: it is no row of metrics")
    return rows


def _is_metrics(row: dict[str, Any]) -> bool:
    wrong = [key for key in _METRICS if key in row and not _is_number(row[key])]
    validated = "validation/iwae" in row or "validation/elbo" in row
    return not wrong and (not validated or "epoch" in row)


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
