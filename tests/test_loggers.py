"""Where the numbers of a run go: which loggers are taken, and what they hold."""

import io
import itertools
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from run_script import run_script

from vaejax.errors import UserError
from vaejax.storage import logging

SMALL = (
    "--config=configs/digits.py",
    "--config.model.latent_dims=(2,)",
    "--config.model.encoder=mlp(hidden_dims=(4,))",
    "--config.training.batch_size=600",
    "--config.training.num_epochs=2",
    "--config.evaluation.num_samples=2",
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jsonl,wandbb", "unknown 'wandbb'; did you mean 'wandb'"),
        ("jsonl,tensorboard,jsonl", "jsonl is given twice"),
        ("tensorboard", "needs jsonl, got tensorboard; .*use --loggers=jsonl,tensorboard"),
        ("", "unknown ''"),
    ],
)
def test_a_list_that_is_none_is_refused(text, message):
    with pytest.raises(UserError, match=f"^--loggers: {message}"):
        logging.chosen(text)


def test_the_default_is_a_list_like_any_other():
    assert logging.chosen(",".join(logging.DEFAULT)) == logging.DEFAULT
    assert logging.chosen(" jsonl") == ("jsonl",)


def test_wandb_is_asked_for_before_anything_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^--loggers: wandb is not installed; pip install -e"):
        logging.chosen("jsonl,wandb")
    mode = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    nobody = {"Error": RuntimeError, "setup": lambda: mode, "login": lambda prompt: prompt}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(**nobody))
    with pytest.raises(UserError, match=r"^--loggers: wandb: no account .* WANDB_MODE=offline"):
        logging.chosen("jsonl,wandb")
    mode.settings.mode = "offline"
    assert logging.chosen("jsonl,wandb") == ("jsonl", "wandb")


@pytest.mark.parametrize("names", [("jsonl",), ("tensorboard", "jsonl")])
def test_only_what_is_chosen_is_written(tmp_path, names):
    with logging.metrics_writer(tmp_path, step=0, loggers=names) as writer:
        writer.scalars(1, {"a": 2.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "a": 2.0}
    assert (tmp_path / "tensorboard").exists() == ("tensorboard" in names)


def test_a_run_that_a_logger_refuses_has_not_begun(tmp_path, monkeypatch):
    def refuse(workdir, *, step):
        raise UserError("refused")

    monkeypatch.setitem(logging.LOGGERS, "wandb", refuse)
    names = ("jsonl", "wandb")
    with (
        pytest.raises(UserError, match="refused"),
        logging.metrics_writer(tmp_path, step=0, loggers=names),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wandb_offline_holds_what_metrics_jsonl_holds(tmp_path):
    pytest.importorskip("wandb")
    sweep = tmp_path / "sweep.py"
    sweep.write_text("get_sweep = lambda: [{'objective.beta': 1.0}, {'objective.beta': 2.0}]\n")
    loggers = "--loggers=jsonl,wandb"
    offline = {"WANDB_MODE": "offline", "WANDB_PROJECT": "of-the-test"}
    flags = (*SMALL, f"--sweep={sweep}", f"--workdir={tmp_path / 'runs'}", loggers)
    finished = run_script("sweep.py", *flags, **offline)
    assert finished.code == 0, finished.err
    for beta in ("1.0", "2.0"):
        _check_wandb(tmp_path / "runs" / f"beta={beta}", starts=1)
    member = tmp_path / "runs" / "beta=1.0"
    more = (*SMALL, f"--workdir={member}", loggers, "--config.training.num_epochs=3")
    finished = run_script("train.py", *more, **offline)
    assert finished.code == 0, finished.err
    assert "wandb:" not in finished.out + finished.err
    _check_wandb(member, starts=2)
    assert not (member / "tensorboard").exists()


def _check_wandb(folder, *, starts):
    """Every start has a file of one and the same run, and each row of the metrics is in one."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == starts
    own = json.loads((folder / "wandb" / "run.json").read_text())["id"]
    assert {file.name for file in files} == {f"run-{own}.wandb"}
    content = b"".join(file.read_bytes() for file in files)
    assert b"of-the-test" in content
    assert b"inference_bound" in content  # the config
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == starts + 1
    for row in rows:
        assert repr(row["validation/iwae"]).encode() in content
    assert list(folder.glob("wandb/offline-run-*/files/media/images/samples_*.png"))


def test_the_time_that_is_left_reads_as_hours_and_stays_finite(monkeypatch):
    clock = itertools.chain([0.0, 100.0], itertools.repeat(200.0))
    monkeypatch.setattr(logging.time, "monotonic", lambda: next(clock))
    console = Console(record=True, width=200, file=io.StringIO())
    with logging.progress(console, "train", done=0, total=10_000, unit="examples") as update:
        update(100, "at")
        update(0, "nothing yet")
    first, second = console.export_text().splitlines()
    assert first == "train   1%  1 examples/s  2:45:00 left  at"
    assert second.endswith("days, 1:46:40 left  nothing yet")
