"""Commands that pages, configs and sweeps show: what they ask is legal."""

import pathlib
import re
import shlex

import pytest
from conftest import ROOT

from vaejax import config as config_lib
from vaejax.experiment import cli, config_files
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import spaces

PLACES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.py")]
COMMAND = re.compile(r"(?:python scripts/|`)(?:train|sweep)\.py (--[^\n`#]*)")
OVERRIDE = re.compile(r"--config\.(?P<path>[\w.]+)(?:=(?P<text>.*))?", re.DOTALL)


def _commands(path: pathlib.Path) -> list[str]:
    """The flags of each command in the file with a config file of ours, optional ones left out."""
    lines = re.sub(r"\s*\\\n\s*", " ", path.read_text())
    found = [re.sub(r"\[[^\]]*\]", "", text) for text in COMMAND.findall(lines)]
    found = [text.strip() for text in found if "--config=configs/" in text and "..." not in text]
    return [text.removesuffix('"') if text.count('"') % 2 else text for text in found]


COMMANDS = sorted({(path, text) for path in PLACES for text in _commands(path)})


def _value(arguments: list[str], flag: str) -> str | None:
    found = [a.partition("=")[2] for a in arguments if a.startswith(f"--{flag}=")]
    return found[-1] if found else None


def test_there_are_commands():
    assert len(COMMANDS) > 30
    assert sum("--sweep=" in text for _, text in COMMANDS) > 10


@pytest.mark.parametrize(
    ("path", "text"), COMMANDS, ids=[f"{path.name}-{i}" for i, (path, _) in enumerate(COMMANDS)]
)
def test_what_a_shown_command_asks_is_legal(path, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(text)
    overrides = {m["path"]: m["text"] for m in map(OVERRIDE.fullmatch, arguments) if m}
    config = cli.override(config_files.load(_value(arguments, "config")), overrides)
    config = config_lib.validated(config)
    if (sweep := _value(arguments, "sweep")) is None:
        return
    if _value(arguments, "search") is not None:
        spaces.check(config, spaces.load(sweep))
        return
    items = sweeps.load(sweep)
    seeds = _value(arguments, "seeds")
    items = items if seeds is None else sweeps.with_seeds(items, int(seeds))
    assert len(sweeps.members(config, items)) == len(items)
