"""Compiled programs are kept beside the runs, unless somebody says otherwise."""

import io
import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT
from rich.console import Console

from vaejax.storage import compilation

PLACE = "JAX_COMPILATION_CACHE_DIR"


def _keep(workdir, monkeypatch):
    """What `keep_programs` sets, with what it says."""
    found = {}
    with monkeypatch.context() as patch:
        patch.setattr(jax.config, "update", found.__setitem__)
        console = Console(record=True, file=io.StringIO(), width=500)
        compilation.keep_programs(workdir, console)
    return found, console.export_text()


def test_programs_are_kept_in_the_parent_and_it_is_said_once(tmp_path, monkeypatch):
    monkeypatch.delenv(PLACE)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    found, said = _keep(tmp_path / "runs" / "digits", monkeypatch)
    place = tmp_path / "runs" / ".compilation-cache"
    assert said.startswith(f"compiled programs are kept in {place}")
    assert found["jax_compilation_cache_dir"].startswith(str(place))
    assert found["jax_persistent_cache_min_compile_time_secs"] < 1
    again, said = _keep(tmp_path / "runs" / "other", monkeypatch)
    assert (again, said) == (found, "")
    assert not (tmp_path / "runs" / "digits").exists()


@pytest.mark.parametrize("text", ["", "elsewhere"])
def test_the_variable_of_jax_comes_first(tmp_path, monkeypatch, text):
    monkeypatch.setenv(PLACE, text)
    assert _keep(tmp_path / "digits", monkeypatch) == ({}, "")
    assert not [*tmp_path.iterdir()]


def test_where_it_cannot_be_written_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(PLACE)
    (tmp_path / ".compilation-cache").write_text("a file")
    assert _keep(tmp_path / "digits", monkeypatch) == ({}, "")


@pytest.mark.slow
def test_the_second_start_compiles_nothing_new(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != PLACE} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, f"{ROOT}/scripts/train.py", f"--config={ROOT}/configs/digits.py"]
    kept = []
    for name in ("first", "second"):
        flags = [f"--workdir={tmp_path / name}", "--config.training.num_epochs=1"]
        options = {"env": environment, "capture_output": True, "text": True, "timeout": 200}
        found = subprocess.run([*command, *flags], **options)
        assert (found.returncode, found.stderr) == (0, "")
        files = (tmp_path / ".compilation-cache").rglob("*-cache")
        kept.append({path.name: path.stat().st_mtime_ns for path in files})
        assert ("compiled programs are kept" in found.stdout) == (name == "first")
    assert len(kept[0]) > 2
    assert kept[0] == kept[1]
