"""What a hostile user does: one line, before the computing, and nothing lost or left behind."""

import errno
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, small_config
from rich.console import Console
from run_script import run_script

from vaejax.comparison import read as comparison_read
from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.explain import run as explain_run
from vaejax.runs import evaluate
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps import launch
from vaejax.sweeps import members as sweeps
from vaejax.training import train

QUIET = Console(quiet=True, markup=False)
CONFIG = "--config=configs/digits.py"
SWEEP = (CONFIG, "--sweep=configs/sweeps/bounds.py")
HUGE = "9" * 400
SMALL_EXPLAIN = ("--only=identity", "--config.identity.num_examples=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hostile") / "run"
    train.train(small_config(), workdir, console=QUIET)
    evaluate.evaluate(workdir, console=QUIET)
    return workdir


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def _names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _refused(finished, sentence):
    assert finished.code == 2, finished.err
    (line,) = finished.err.strip().splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert len(line) < 3000
    assert "Traceback" not in finished.out


FOLDERS = {
    "evaluate.py": ("--workdir={}",),
    "sweep.py": (*SWEEP, "--workdir={}"),
    "explain.py": (*SMALL_EXPLAIN, "--workdir={}"),
    "gradients.py": ("--workdir={}",),
    "gradients.py out": (CONFIG, "--out={}"),
    "compare.py": ("{}", "--out=nowhere"),
    "compare.py out": ("{run}", "--out={}"),
}


NO_PLACES = {"": "needs a folder, got ''", "~nosuchuser/x": "no home", "a[1]": "contains [ ]"}
# A comparison writes no checkpoint: brackets are legal there.
BAD_PLACES = [
    (s, p) for s in FOLDERS for p in NO_PLACES if not (s.startswith("compare") and "[" in p)
]


@pytest.mark.parametrize(("script", "place"), BAD_PLACES)
def test_no_script_takes_a_place_that_is_none(script, place, run):
    sentence = NO_PLACES[place]
    arguments = [text.replace("{run}", str(run)).format(place) for text in FOLDERS[script]]
    before = sorted(ROOT.iterdir())
    _refused(run_script(script.split()[0], *arguments), sentence)
    assert sorted(ROOT.iterdir()) == before


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("train.py", ["--config="], "--config: needs a file, got ''"),
        ("sweep.py", [CONFIG, "--sweep="], "--sweep: needs a file, got ''"),
        ("sweep.py", [*SWEEP, f"--seeds={HUGE}"], "--seeds: must be in 1..100,000, got a huge"),
        ("sweep.py", [*SWEEP, "--memory=inf"], "--memory: must be in"),
        ("sweep.py", [*SWEEP, "--memory=1e300"], "--memory: must be in"),
        ("sweep.py", [*SWEEP, "--memory=1e-30"], "--memory: must be in"),
        ("train.py", [CONFIG, f"--config.model.encoder=mlp(hidden_dims=({HUGE},))"], "1..1048576"),
        ("train.py", [CONFIG, "--config.objective.num_samples=2147483647"], "GiB may be used"),
        ("explain.py", [f"--seed={HUGE}"], "flag --seed"),
        ("train.py", [CONFIG, "--config.dataset.data_dir="], "dataset.data_dir: needs a folder"),
        ("explain.py", ["--only="], "--only: needs an experiment, got none"),
        ("train.py", [CONFIG, "-workdir=elsewhere"], "--workdir: is given 2 times"),
        ("explain.py", [f"--config.identity.num_examples={HUGE}"], "got a huge number"),
    ],
)
def test_numbers_and_texts_beyond_reason(script, arguments, sentence, tmp_path):
    _refused(run_script(script, *arguments, f"--workdir={tmp_path}/run"), sentence)
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (f"--num_samples={HUGE}", "must be in 1..2147483647, got a huge number"),
        ("--num_samples=" + "9" * 5000, "needs whole numbers"),
        ("--num_samples=", "needs at least one K, got none"),
        ("--num_samples=20000000", "GiB may be used"),
        (f"--seed={HUGE}", "must be in 0..2147483647, got a huge number"),
        (f"--num_draws={HUGE}", "must be in 40..2147483647, got a huge number"),
        (f"--num_examples={HUGE}", "got a huge number"),
    ],
)
def test_gradients_of_numbers_beyond_reason(argument, sentence, copied):
    before = _names(copied)
    arguments = [f"--workdir={copied}", "--estimators=iwae:pathwise", argument]
    _refused(run_script("gradients.py", *arguments), sentence)
    assert {*_names(copied)} == {*before}


@pytest.mark.parametrize("name", ["num_samples", "seed", "chunk_size"])
def test_evaluations_of_numbers_beyond_reason(name, run):
    with pytest.raises(UserError, match=f"evaluation.{name}: must be .*, got a huge number"):
        evaluate.evaluate(run, overrides={f"evaluation.{name}": HUGE}, console=QUIET)


def test_the_flag_that_was_given_is_the_one_named(run):
    given = {"overrides": {"evidence.num_examples": "99999"}, "estimators": ["importance"]}
    with pytest.raises(UserError, match=r"^evidence.num_examples: must be in 2..360"):
        evaluate.evaluate(run, **given, console=QUIET)
    with pytest.raises(UserError, match=r"^nowhere holds no run"):
        evaluate.evaluate(pathlib.Path("nowhere"), console=QUIET)


def test_a_folder_of_runs_names_one_of_them(run):
    with pytest.raises(UserError, match=rf"holds no run .*, such as {re.escape(str(run))}$"):
        evaluate.evaluate(run.parent, console=QUIET)


PLACES = {
    "evaluate figures": ("evaluate.py", ["--workdir={run}"], "run/figures", "file"),
    "evaluate json": ("evaluate.py", ["--workdir={run}"], "run/evaluation.json", "folder"),
    "gradients json": ("gradients.py", ["--workdir={run}"], "run/gradients.json", "folder"),
    "gradients out": ("gradients.py", [CONFIG, "--out={tmp}/g/out"], "g", "file"),
    "explain page": (
        "explain.py",
        ["--workdir={tmp}/e", *SMALL_EXPLAIN],
        "e/explain.html",
        "folder",
    ),
    "compare figures": ("compare.py", ["{run}", "--out={tmp}/c"], "c/figures", "file"),
    "sweep json": ("sweep.py", [*SWEEP, "--workdir={tmp}/s"], "s/sweep.json", "folder"),
    "train metrics": ("train.py", [CONFIG, "--workdir={tmp}/t"], "t/metrics.jsonl", "folder"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_written_is_found_before_the_computing(case, copied, tmp_path):
    script, arguments, taken, kind = PLACES[case]
    path = tmp_path / taken
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if kind == "folder" else path.write_text("x")
    finished = run_script(script, *(text.format(run=copied, tmp=tmp_path) for text in arguments))
    _refused(finished, str(path))
    assert finished.out.strip() == ""


CONTENTS = {
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "number": b"7",
    "wrong types": b'{"seed": "x", "protocol": [], "estimates": 3, "step": "x", "error": 1}',
    "binary": b"\xff\xfe\x00\x80",
    "empty": b"",
    "digits": b'{"seed": %s, "step": %s}' % (HUGE.encode(), HUGE.encode()),
    "more digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "half a pair": b'{"seed": "\\ud800", "\\ud800": "\\ud800"}',
}


def _compared(folder):
    comparison_read.run(folder, "run")


def _launched(folder):
    launch._groups([], folder)


def _failed(folder):
    member = sweeps.Member(folder.name, {}, small_config())
    launch._result(member, folder.parent, None)


READERS = {
    "config.json": workdir_lib.read_config,
    "config.json compared": _compared,
    "evaluation.json": _compared,
    "metrics.jsonl": _compared,
    "groups.json": _launched,
    "failed.json": _failed,
    "explain.json": explain_run.read,
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_json_of_any_content_is_one_line(name, content, copied):
    path = copied / name.split()[0]
    twice = (CONTENTS[content] + b"\n") * (2 if path.suffix == ".jsonl" else 1)
    path.write_bytes(twice)
    if (name, content) in HARMLESS:
        READERS[name](copied)
        return
    with pytest.raises(UserError) as error:
        READERS[name](copied)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


HARMLESS = {("groups.json", "list"), ("metrics.jsonl", "empty")}


@pytest.mark.parametrize("value", [[], {}, 3])
def test_an_evaluation_with_a_reason_that_is_no_text_is_refused(value, copied):
    path = copied / "evaluation.json"
    found = json.loads(path.read_text())
    found["protocol"]["biased_gradient"] = value
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"evaluation.json: cannot be read"):
        comparison_read.run(copied, "run")


@pytest.mark.parametrize("old", [{"model": {"name": "mlp"}}, {"evidence": {"num_examples": 9}}])
def test_a_run_of_the_first_edition_is_told_from_a_broken_one(old, copied):
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | old))
    calls = {
        "evaluate": lambda: evaluate.evaluate(copied, console=QUIET),
        "train": lambda: train.train(small_config(), copied, console=QUIET),
        "compare": lambda: comparison_read.run(copied, "run"),
    }
    for call in calls.values():
        with pytest.raises(UserError, match=r"is of vaejax 0\.1, .* train it again with"):
            call()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class E(BaseException): pass\nraise E('x')", "E: x"),
        ("def get_sweep(): return ['a']", "list of dicts"),
        ("def get_sweep(): return 'ab'", "list of dicts"),
        ("def get_sweep(): return [{1: 2}]", "keys are dotted paths (text), got 1"),
        ("def get_sweep(): return [{10**5000: 2}]", "got a huge number"),
        ("def get_sweep(): return [{'name': None}]", "a name is text, got None"),
        ("def get_sweep(): return [{'seed': 10**5000}]", "got a huge number"),
        ("def get_sweep(): return [{'model.latent_dims': (10**5000,)}]", "got a huge number"),
        ("def get_sweep(): return [{'name': 'x' * 300}]", "at most 151"),
        ("def get_sweep(): return [{'name': 'é' * 150, 'seed': 1}]", "letters, digits"),
        ("def get_sweep(): return [{'name': 'sweep.json', 'seed': 1}]", "a file of the sweep"),
        ("def get_sweep(): return [{'optimizer': {'learning_rate': 1}}]", "unknown 'optimizer'"),
    ],
)
def test_sweep_files_that_are_none(body, sentence, tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(body)
    with pytest.raises(UserError) as error:
        sweeps.members(small_config(), sweeps.load(str(path)))
    assert sentence in str(error.value)
    assert "--sweep" in str(error.value)


@pytest.mark.parametrize("value", ["'mlp'", "None", "Model", "Training()", "object()"])
def test_config_files_whose_model_is_something_else(value, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        f"from vaejax.config import *\ndef get_config():\n    return Config(model={value})\n"
    )
    finished = run_script("train.py", f"--config={path}", f"--workdir={tmp_path}/run")
    _refused(finished, "config.model: needs a vaejax")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_whose_checkpoint_cannot_be_read_never_starts_over(copied, monkeypatch):
    before = _names(copied / "checkpoints")
    genuine = pathlib.Path.read_bytes

    def failing(path):
        if "checkpoints" in path.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return genuine(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", failing)
    with pytest.raises(UserError, match=r"cannot be read: .*Input/output error; nothing was"):
        train.train(small_config(), copied, console=QUIET)
    with pytest.raises(UserError, match=r"cannot be read: .*Input/output error; nothing was"):
        evaluate.evaluate(copied, console=QUIET)
    monkeypatch.undo()
    assert _names(copied / "checkpoints") == before
    assert int(train.train(small_config(), copied, console=QUIET).step) == 3 * 7


@pytest.mark.slow
def test_a_folder_that_vanishes_during_training_is_one_line(tmp_path):
    workdir, aside = tmp_path / "run", tmp_path / "aside"

    def vanish():
        while not (workdir / "metrics.jsonl").exists():
            time.sleep(0.02)
        workdir.rename(aside)

    thread = threading.Thread(target=vanish)
    thread.start()
    finished = run_script(
        "train.py",
        CONFIG,
        f"--workdir={workdir}",
        "--config.model.encoder=mlp(hidden_dims=(8,))",
        "--config.training.num_epochs=100000",
    )
    thread.join()
    _refused(finished, "gone")
    assert not workdir.exists()


@pytest.mark.slow
def test_64_bits_from_training_to_the_stamp(x64, tmp_path):
    overrides = {"training__num_epochs": 1, "training__ema_decay": 0.9}
    workdir = tmp_path / "run"
    train.train(small_config(**overrides), workdir, console=QUIET)
    found = evaluate.evaluate(workdir, console=QUIET)
    assert found.protocol.dtype == "float64"
    assert json.loads((workdir / "evaluation.json").read_text())["protocol"]["dtype"] == "float64"
    with np.load(workdir / "evaluation.npz") as arrays:
        assert arrays["value/elbo"].dtype == np.float64


def _guarded(main, monkeypatch, encoding="utf-8"):
    """Exit code and what was printed, on outputs of that encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    code = cli._guarded(main)(["script"])
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_every_encoding_takes_what_a_script_prints(encoding, monkeypatch):
    def main(console, arguments):
        console.print("Δ 1 ± 2 \u2026 → 漢字", markup=False)
        raise UserError("größer als Δ 漢字")

    code, out, err = _guarded(main, monkeypatch, encoding)
    assert code == 2
    assert "1" in out
    assert err.startswith("error: gr")


def test_control_c_is_one_line_and_130(monkeypatch):
    def main(console, arguments):
        raise KeyboardInterrupt

    assert _guarded(main, monkeypatch) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("explain.py", ["--workdir=out", "--config.identity.num_examples=0"], "must be finite"),
        ("benchmark.py", ["--only=nothing"], "--only: unknown 'nothing'"),
        (
            "benchmark_precision.py",
            ["--workdir=nowhere", "--reference=nowhere.npz"],
            "--reference: there is no file nowhere.npz",
        ),
    ],
)
def test_scripts_find_their_files_from_another_folder(script, arguments, sentence, tmp_path):
    finished = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert sentence in finished.stderr
