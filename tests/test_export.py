"""Exported runs: the same numbers in less room, and what is said where they are trained on."""

import io
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from conftest import ROOT, small_config
from rich.console import Console
from run_script import run_script

from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import export as export_run
from vaejax.runs import files, subject
from vaejax.storage import checkpoints
from vaejax.training import optimizers, runs, train
from vaejax.training import step as training
from vaejax.types import DataSpec

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_directory):
    """A run of one epoch, evaluated."""
    folder = tmp_path_factory.mktemp("run")
    train.train(small_config(training__num_epochs=1), folder, console=QUIET)
    evaluate_run.evaluate(folder, draw=False, console=QUIET)
    return folder


def _state(workdir):
    return runs.load_run(workdir, (8, 8), console=QUIET).state


def test_a_copy_has_the_numbers_and_not_the_moments(trained, tmp_path):
    to = tmp_path / "new" / "copy"
    found = export_run.export(trained, to, console=QUIET)
    ours, theirs = _state(to), _state(trained)
    assert found.step == int(ours.step) == int(theirs.step)
    assert found.splits == ("test",)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert optimizers.num_updates(theirs.opt_state) == found.step
    assert optimizers.num_updates(ours.opt_state) == 0
    size = lambda folder: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert found.num_bytes == size(to)
    newest = trained / runs.CHECKPOINTS / str(found.step)
    assert size(to / runs.CHECKPOINTS) < size(newest)
    before = files.read(trained / "evaluation.json")
    assert files.read(to / "evaluation.json").result == before.result
    again = evaluate_run.evaluate(to, draw=False, console=QUIET)
    assert again.estimates == before.result.estimates
    assert {path.name for path in to.iterdir()} >= {"config.json", "checkpoints"}
    assert [path.name for path in to.parent.iterdir()] == ["copy"]


def test_no_file_of_a_copy_says_where_it_was_written(trained, tmp_path):
    export_run.export(trained, tmp_path / "copy", console=QUIET)
    files_ = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert len(files_) > 4
    names = [str(folder).encode() for folder in (tmp_path, trained)]
    assert [p for p in files_ if any(name in p.read_bytes() for name in names)] == []


def test_the_folder_one_stands_in_may_become_the_copy(trained, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    export_run.export(trained, pathlib.Path(), console=QUIET)
    assert (here / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("parameters", ["all", "generative", "inference"])
@pytest.mark.parametrize("skip_norm", [None, 100.0])
def test_moments_are_dropped_whatever_is_trained(parameters, skip_norm):
    config = small_config(training__parameters=parameters, optimizer__skip_norm=skip_norm)
    model = latent_variable.build(config.model, DataSpec((8, 8), None))
    state = training.init_state(config, model=model)
    ones = jax.tree.map(jax.numpy.ones_like, state.params)
    _, moved = optimizers.update(config, ones, state.opt_state, state.params, rate=0.1)
    assert optimizers.num_updates(moved) == 1
    dropped = optimizers.without_moments(config, moved, state.params)
    assert optimizers.num_updates(dropped) == 0
    jax.tree.map(np.testing.assert_array_equal, dropped, state.opt_state)


def test_what_cannot_be_exported_is_named(trained, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--to: .* is not empty"):
        export_run.export(trained, full, console=QUIET)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]

    unfinished = shutil.copytree(trained, tmp_path / "unfinished")
    config = json.loads((unfinished / "config.json").read_text())
    config["training"]["num_epochs"] = 2
    (unfinished / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="training is not finished, this is step"):
        export_run.export(unfinished, tmp_path / "to", console=QUIET)

    other = shutil.copytree(trained, tmp_path / "other")
    text = (other / "evaluation.json").read_text()
    sha256 = json.loads(text)["protocol"]["params_sha256"]
    (other / "evaluation.json").write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(UserError, match="is of other parameters; evaluate the run again"):
        export_run.export(other, tmp_path / "to", console=QUIET)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.checkpoint_files, "write", fails)
    with pytest.raises(UserError, match="No space left on device"):
        export_run.export(trained, tmp_path / "to", console=QUIET)
    assert not [path for path in tmp_path.iterdir() if "to" in path.name and path != other]


def test_a_copy_trained_on_says_that_its_moments_begin_anew(trained, tmp_path):
    to = tmp_path / "copy"
    export_run.export(trained, to, console=QUIET)
    for folder, warned in ((shutil.copytree(trained, tmp_path / "whole"), False), (to, True)):
        said = Console(file=io.StringIO(), width=1000)
        train.train(small_config(training__num_epochs=2), folder, console=said)
        assert ("no moments of Adam" in said.file.getvalue()) == warned
        assert int(_state(folder).step) > int(_state(trained).step)


def test_the_script_copies_or_says_what_is_wrong(trained, tmp_path):
    to = tmp_path / "copy"
    good = run_script("export.py", f"--workdir={trained}", f"--to={to}")
    assert good.code == 0, good.err
    assert "evaluations: test" in good.out
    for arguments, message in (
        ((f"--workdir={trained}", f"--to={to}"), "is not empty"),
        ((f"--workdir={tmp_path / 'nothing'}", f"--to={tmp_path / 'to'}"), "holds no run"),
    ):
        bad = run_script("export.py", *arguments)
        assert bad.code == 2
        assert message in bad.err
        assert bad.err.count("\n") == 1


KEPT = sorted(path.parent for path in (ROOT / "docs" / "runs").glob("*/config.json"))


@pytest.mark.parametrize("workdir", KEPT, ids=lambda path: path.name)
def test_a_kept_run_is_small_and_its_evaluation_is_of_its_parameters(workdir):
    size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    assert size < 5_000_000
    state = runs.load_run(workdir, (28, 28, 1), console=QUIET).state
    protocol = files.read(workdir / "evaluation.json").result.protocol
    assert protocol.params_sha256 == subject.params_sha256(training.evaluation_params(state))
    assert (protocol.finished, protocol.num_samples) == (True, 5000)
    (mark,) = workdir.rglob("commit_success.txt")
    assert "/" not in mark.read_text()


def test_there_are_kept_runs():
    assert KEPT
