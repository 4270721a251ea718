"""Running the experiments: numbers, figures and the page, written as each one ends."""

import io
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from vaejax import schema
from vaejax.errors import UserError, unknown
from vaejax.explain import page as explain_page
from vaejax.explain.config import Config
from vaejax.explain.experiments import EXPERIMENTS
from vaejax.explain.result import Picture
from vaejax.storage import files, json_files, logging
from vaejax.storage import workdir as workdir_lib

RESULT = "explain.json"
PAGE = "explain.html"
_LONGEST = 1e12  # seconds; more is no time but a broken file
_TYPES = {
    "question": str,
    "headline": str,
    "seed": int,
    "seconds": (int, float),
    "config": dict,
    "numbers": dict,
    "sentences": list,
    "figures": list,
}


def explain(
    config: Config,
    workdir: pathlib.Path,
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    console: Console,
) -> dict[str, Any]:
    """Runs the experiments named in `only`, all of them where it is empty.

    Writes explain.json, figures/ and explain.html after each; entries of other experiments
    in `workdir` are kept.

    Returns:
      The content of explain.json.

    Raises:
      UserError: an unknown name, a file that cannot be read or written, numbers that are
        not finite.
    """
    names = select(only)
    with workdir_lib.lock(workdir) as warning:
        if warning:
            logging.warn(console, warning)
        files.require_writable(workdir, (RESULT, PAGE, "figures/identity.png"))
        entries = read(workdir)
        for name in names:
            console.print(f"{name}: {EXPERIMENTS[name].QUESTION}", soft_wrap=True)
            entry, images = run(name, getattr(config, name), seed=seed)
            console.print(f"  {entry['headline']} ({entry['seconds']:.0f} s)", soft_wrap=True)
            entries = _in_order(entries | {name: entry})
            publish(workdir, entries, images)
    return entries


def select(only: Sequence[str]) -> tuple[str, ...]:
    """The experiments to run, in the order of the page. Raises UserError for an unknown one."""
    for name in only:
        if name not in EXPERIMENTS:
            raise unknown("--only", name, EXPERIMENTS)
    return tuple(name for name in EXPERIMENTS if not only or name in only)


def run(name: str, config: Any, *, seed: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """One experiment: its entry of explain.json, and its figures by file name.

    Raises:
      UserError: a number is not finite.
    """
    module, started = EXPERIMENTS[name], time.monotonic()
    findings = module.compute(config, seed=seed)
    numbers = module.numbers(findings)
    _check_finite(name, numbers)
    pictures = module.pictures(findings)
    names = {key: f"figures/{name}-{key}.{_suffix(item)}" for key, item in pictures.items()}
    images = {names[key]: _render(item) for key, item in pictures.items()}
    entry = {
        "question": module.QUESTION,
        "headline": module.headline(findings),
        "seed": seed,
        "seconds": time.monotonic() - started,
        "config": schema.to_dict(config),
        "numbers": numbers,
        "sentences": module.sentences(findings),
        "figures": [
            {"file": names[key], "caption": item.caption} for key, item in pictures.items()
        ],
    }
    return entry, images


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """The entries of an earlier run in `workdir`, or none.

    Raises:
      UserError: explain.json is not what this module writes, or names a figure outside
        `workdir`.
    """
    path = workdir / RESULT
    if not path.is_file():
        return {}
    entries = json_files.read_json(path)
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise UserError(f"{path}: is no result of scripts/explain.py; move it away, then run again")
    for name, entry in entries.items():
        for figure in entry["figures"]:
            if not _is_inside(workdir, figure["file"]):
                raise UserError(
                    f"{path}: {name}: the figure {figure['file']!r} lies outside {workdir}; move "
                    f"{RESULT} away, then run again"
                )
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(key), kind) for key, kind in _TYPES.items()
    ):
        return False
    if not 0 <= entry["seconds"] < _LONGEST:
        return False
    return all(isinstance(text, str) for text in entry["sentences"]) and all(
        isinstance(figure, dict)
        and isinstance(figure.get("file"), str)
        and isinstance(figure.get("caption"), str)
        for figure in entry["figures"]
    )


def _is_inside(workdir: pathlib.Path, file: str) -> bool:
    """Whether `file`, links followed, lies in `workdir`: only such files go into the page."""
    try:
        return (workdir / file).resolve().is_relative_to(workdir.resolve())
    except (OSError, ValueError, RuntimeError):  # a null byte, a loop of links
        return False


def _check_finite(name: str, numbers: dict[str, Any]) -> None:
    for path, value in schema.flatten(numbers).items():
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(
                    f"{name}: {path} is {number}; its earlier result, if any, is kept; "
                    f"try another --seed or a smaller change of --config.{name}"
                )


def _suffix(picture: Picture) -> str:
    return "gif" if isinstance(picture.image, bytes) else "png"


def _render(picture: Picture) -> bytes:
    if isinstance(picture.image, bytes):
        return picture.image
    buffer = io.BytesIO()
    picture.image.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _in_order(entries: dict[str, Any]) -> dict[str, Any]:
    known = {name: entries[name] for name in EXPERIMENTS if name in entries}
    return known | entries


def publish(workdir: pathlib.Path, entries: dict[str, Any], drawn: dict[str, bytes]) -> None:
    """Writes explain.json, the figures `drawn` by file name, and the page, all together.

    The page holds the entries whose figures are there. Raises UserError on a full disk.
    """
    shown, images = {}, {}
    for name in (name for name in EXPERIMENTS if name in entries):
        files_ = [figure["file"] for figure in entries[name]["figures"]]
        if all(file in drawn or (workdir / file).is_file() for file in files_):
            shown[name] = entries[name]
            images |= {file: drawn.get(file) or (workdir / file).read_bytes() for file in files_}
    absent = [name for name in EXPERIMENTS if name not in shown]
    contents = {
        **drawn,
        RESULT: files.json_text(entries).encode(),
        PAGE: explain_page.page(shown, images, absent).encode(),
    }
    writers = {name: lambda file, data=data: file.write(data) for name, data in contents.items()}
    files.publish(workdir, writers)
