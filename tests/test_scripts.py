"""The scripts as a user runs them: good input end to end, bad input on one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from run_script import run_script

SMALL = (
    "--config=configs/digits.py",
    "--config.model.latent_dims=(3,)",
    "--config.model.encoder=mlp(hidden_dims=(8,))",
    "--config.training.batch_size=200",
    "--config.training.num_epochs=3",
    "--config.training.checkpoint_seconds=0",
    "--config.evaluation.num_samples=20",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    finished = run_script("train.py", *SMALL, f"--workdir={workdir}")
    assert finished.code == 0, finished.err
    return workdir


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _params(workdir):
    """Bytes of every array of the newest checkpoint."""
    from vaejax.training import runs

    class Silent:
        print = staticmethod(lambda *args, **options: None)

    _, _, state = runs.load_run(workdir, (8, 8, 1), console=Silent())
    import jax

    return int(state.step), [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_train_writes_what_the_readme_says(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "figures"} <= names
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"train/elbo", "train/iwae", "validation/elbo", "validation/iwae", "seconds"} <= set(
        rows[-1]
    )
    assert (trained / "figures" / "training.png").stat().st_size > 5000
    assert list((trained / "tensorboard").glob("events*"))


def test_evaluate_writes_table_json_npz_and_figures(copied):
    finished = run_script("evaluate.py", f"--workdir={copied}")
    assert finished.code == 0, finished.err
    for word in ("elbo", "iwae_5", "MC error", "data error", "median ESS"):
        assert word in finished.out
    result = json.loads((copied / "evaluation.json").read_text())
    assert {"protocol", "estimates", "diagnostics", "arrays_sha256"} <= set(result)
    assert set(result["protocol"]) >= {
        "dataset", "split", "num_examples", "binarization", "data_sha256", "num_samples", "model",
        "objective", "biased_gradient", "checkpoint_step", "seed", "dtype", "versions", "device",
        "precision", "training_precision", "params_sha256", "finished",
    }  # fmt: skip
    assert result["protocol"]["precision"] == "highest"
    assert result["protocol"]["finished"] is True
    assert list(result["estimates"]) == [
        "elbo", "reconstruction", "kl", "kl_closed_form", "iwae_1", "iwae_5", "iwae_20",
    ]  # fmt: skip
    assert result["protocol"]["num_examples"] == 360
    assert result["protocol"]["checkpoint_step"] == 18
    arrays = np.load(copied / "evaluation.npz")
    np.testing.assert_allclose(
        arrays["value/elbo"].mean(dtype=np.float64), result["estimates"]["elbo"]["value"]
    )
    for name in ("bounds", "samples", "reconstructions"):
        assert (copied / "figures" / f"{name}.png").stat().st_size > 3000


def test_evaluate_other_splits_beside_the_test_result(copied):
    finished = run_script(
        "evaluate.py", f"--workdir={copied}", "--split=validation", "--num_samples=5"
    )
    assert finished.code == 0, finished.err
    result = json.loads((copied / "evaluation-validation.json").read_text())
    assert result["protocol"]["num_samples"] == 5
    assert result["protocol"]["num_examples"] == 200
    assert not (copied / "evaluation.json").exists()


def test_training_again_finds_it_finished(copied):
    before = _params(copied)
    finished = run_script("train.py", *SMALL, f"--workdir={copied}")
    assert finished.code == 0
    assert "already finished at step 18" in finished.out
    assert _params(copied) == before


def test_another_config_is_refused_and_its_keys_named(copied):
    before = _contents(copied)
    finished = run_script(
        "train.py", *SMALL, "--config.seed=3", "--config.objective.beta=2", f"--workdir={copied}"
    )
    assert finished.code == 2
    assert "objective.beta: 2.0 != 1.0; seed: 3 != 0" in finished.err
    assert _contents(copied) == before


BAD_FLAGS = {
    "unknown key": (["--config.optimizer.lr=1"], "unknown 'optimizer.lr'"),
    "mistyped key": (["--config.training.num_epoch=1"], "did you mean 'training.num_epochs'"),
    "override without value": (["--config.seed"], "needs a value"),
    "wrong type": (["--config.training.num_epochs=many"], "needs a whole number, got 'many'"),
    "out of range": (["--config.optimizer.b1=1.5"], "must be finite and >= 0.0 and < 1.0"),
    "missing config": (["--config=configs/digitz.py"], "did you mean 'configs/digits.py'"),
    "no config": (["--config="], "--config"),
    "unprepared dataset": (["--config.dataset.name=cifar10"], "tfds build cifar10"),
    "unknown train split": (["--config.dataset.train_split=trian"], "did you mean 'train'"),
    "batch too large": (["--config.training.batch_size=9999"], "got 9999"),
    "continuous data": (["--config.dataset.binarization=none"], "bernoulli needs 0 or 1"),
    "no samples": (["--config.objective.num_samples=0"], ">= 1 and <= 2147483647, got 0"),
    "unknown flag": (["--confg=configs/digits.py"], "Unknown command line flag 'confg'"),
    "stray argument": (["configs/digits.py"], "unexpected 'configs/digits.py'"),
    "flag given twice": (["--workdir=elsewhere"], "--workdir: is given 2 times"),
    "no boolean": (["--noconfig.seed"], "needs a whole number, got False"),
    "overlapping splits": (["--config.dataset.train_split=test"], "test"),
    "rate that is 0": (["--config.optimizer.learning_rate=1e-60"], "is 0 in float32"),
    "huge model": (["--config.model.latent_dims=1000000000"], "<= 1048576"),
    "huge run": (["--config.training.num_epochs=1e26"], "<= 2147483647"),
    "huge number": (["--config.seed=" + "9" * 400], "got a huge number"),
}


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [
        ("", "--workdir: needs a folder"),
        ("{tmp}/lr[0.1]", "contains [ ]"),
        ("~nosuchuser/run", "stands for no home"),
        ("{tmp}/" + "a" * 300, "at most 255 bytes"),
    ],
)
def test_places_that_cannot_hold_a_run_are_refused_before_anything_starts(
    workdir, expected, tmp_path
):
    finished = run_script("train.py", *SMALL, f"--workdir={workdir.format(tmp=tmp_path)}")
    assert finished.code == 2
    assert expected in finished.err
    assert len(finished.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_form_of_an_override_is_accepted(copied):
    """As ml_collections takes them: =value, a value apart, a flag alone and its negation."""
    same = [
        "--config.training.num_epochs", "3", "--config.objective.beta", "1.0",
        "--noconfig.objective.allow_biased", "-config.training.batch_size=200",
    ]  # fmt: skip
    kept = [flag for flag in SMALL if "num_epochs" not in flag and "batch_size" not in flag]
    finished = run_script("train.py", *kept, *same, f"--workdir={copied}")
    assert finished.code == 0, finished.err
    assert "already finished at step 18" in finished.out
    biased = run_script(
        "train.py", *kept, *same[:-2], same[-1], "--config.objective.allow_biased",
        f"--workdir={copied}",
    )  # fmt: skip
    assert "objective.allow_biased: True != False" in biased.err


@pytest.mark.slow
def test_a_run_goes_on_for_more_epochs_and_is_evaluated_with_other_budgets(copied):
    longer = [*SMALL, "--config.training.num_epochs=4"]
    longer.remove("--config.training.num_epochs=3")
    half = run_script("evaluate.py", f"--workdir={copied}")
    assert half.code == 0, half.err
    finished = run_script("train.py", *longer, f"--workdir={copied}")
    assert finished.code == 0, finished.err
    assert "resuming from step 18" in finished.out
    evaluated = run_script(
        "evaluate.py", f"--workdir={copied}", "--config.evaluation.seed=3", "--num_samples=7"
    )
    assert evaluated.code == 0, evaluated.err
    protocol = json.loads((copied / "evaluation.json").read_text())["protocol"]
    assert (protocol["seed"], protocol["num_samples"], protocol["checkpoint_step"]) == (3, 7, 24)


def test_a_config_file_that_exits_is_an_error(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("import sys\n\n\ndef get_config():\n    sys.exit(0)\n")
    finished = run_script("train.py", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert finished.code == 2
    assert "SystemExit" in finished.err


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    command = [sys.executable, "scripts/train.py", *SMALL, f"--workdir={tmp_path / 'run'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert finished.returncode == 2
    assert "JAX_PLATFORMS=cuda" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_train_flags_are_one_line_exit_2_and_leave_nothing(case, tmp_path):
    arguments, expected = BAD_FLAGS[case]
    given = SMALL[1:] if arguments[0].startswith("--config=") else SMALL
    finished = run_script("train.py", *given, f"--workdir={tmp_path / 'run'}", *arguments)
    assert finished.code == 2, finished
    assert expected in finished.err
    assert len(finished.err.strip().splitlines()) == 1
    assert "Traceback" not in finished.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--split=tset"], "did you mean 'test'"),
        (["--num_samples=0"], "evaluation.num_samples: must be finite and >= 1"),
        (["--num_samples=many"], "--num_samples"),
        (["--num_examples=5"], "--num_examples"),
        (["--config.evidence.annealed.num_chains=4"], "has no effect without --estimators"),
        (["--config.seed=3"], "config.seed"),
        (["--config.evaluation.sead=3"], "did you mean 'evaluation.seed'"),
    ],
)
def test_bad_evaluate_flags_are_one_line_and_exit_2(arguments, expected, trained):
    finished = run_script("evaluate.py", f"--workdir={trained}", *arguments)
    assert finished.code == 2
    assert expected in finished.err
    assert len(finished.err.strip().splitlines()) == 1
    assert "holds no run" in run_script("evaluate.py", "--workdir=nowhere").err


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    finished = run_script("train.py", *SMALL, f"--workdir={tmp_path}/file/run")
    assert finished.code == 2
    assert f"{tmp_path}/file is a file, a folder is needed" in finished.err


def test_a_broken_config_json_is_named(copied):
    (copied / "config.json").write_text('{"seed": ')
    finished = run_script("train.py", *SMALL, f"--workdir={copied}")
    assert finished.code == 2
    assert "config.json: cannot be read" in finished.err


def test_an_untrained_workdir_cannot_be_evaluated(copied):
    shutil.rmtree(copied / "checkpoints")
    finished = run_script("evaluate.py", f"--workdir={copied}")
    assert finished.code == 2
    assert "has no checkpoint; train it first" in finished.err


def test_a_checkpoint_of_another_model_is_named(copied):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["latent_dims"] = [4]
    (copied / "config.json").write_text(json.dumps(config))
    finished = run_script("evaluate.py", f"--workdir={copied}")
    assert finished.code == 2
    assert "checkpoint of another model" in finished.err
    assert re.search(r"is \(3, 8\) there and \(4, 8\) in the config", finished.err)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_earlier_results_survive(copied):
    """A file-size limit stands in for the full disk: the write fails part of the way."""
    assert run_script("evaluate.py", f"--workdir={copied}").code == 0
    before = _contents(copied)
    shell = 'trap "" XFSZ; ulimit -f 2; exec "$@"'
    command = [sys.executable, "scripts/evaluate.py", f"--workdir={copied}", "--num_samples=3"]
    finished = subprocess.run(
        ["bash", "-c", shell, "bash", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 2, finished.stderr
    assert "free some space" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert _contents(copied) == before


def test_a_truncated_newest_checkpoint_falls_back_and_ends_the_same(copied):
    expected = _params(copied)
    steps = sorted(int(path.name) for path in (copied / "checkpoints").iterdir())
    assert len(steps) == 2
    newest = copied / "checkpoints" / str(steps[-1])
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    evaluated = run_script("evaluate.py", f"--workdir={copied}")
    assert evaluated.code == 0
    assert "damaged" in evaluated.out
    finished = run_script("train.py", *SMALL, f"--workdir={copied}")
    assert finished.code == 0, finished.err
    assert f"checkpoint {steps[-1]}" in " ".join(finished.out.split())
    assert f"resuming from step {steps[0]}" in finished.out
    assert _params(copied) == expected


def test_divergence_stops_with_step_and_advice(tmp_path):
    finished = run_script(
        "train.py", *SMALL, "--config.optimizer.learning_rate=1e30", f"--workdir={tmp_path}/run"
    )
    assert finished.code == 2
    assert re.search(r"diverged: .* not finite at step \d+; try a smaller", finished.err)
    assert "no checkpoint yet" in finished.err


LONG = (*SMALL, "--config.training.num_epochs=60", "--config.training.patience=50",
        "--config.training.ema_decay=0.9")  # fmt: skip


def _start(workdir):
    return subprocess.Popen(
        [sys.executable, "scripts/train.py", *LONG, f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_rows(workdir, count, process):
    path = workdir / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unkilled") / "run"
    assert run_script("train.py", *LONG, f"--workdir={workdir}").code == 0
    return workdir


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_like_one_that_never_was(unkilled, tmp_path):
    """SIGKILL at two moments, SIGTERM at a third; parameters, averages and metrics agree."""
    workdir = tmp_path / "run"
    for rows, how in ((3, signal.SIGKILL), (17, signal.SIGTERM), (31, signal.SIGKILL)):
        process = _start(workdir)
        _wait_for_rows(workdir, rows, process)
        process.send_signal(how)
        output, _ = process.communicate(timeout=60)
        if how == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert "run again to resume" in output
        else:
            assert process.returncode == -signal.SIGKILL
    finished = run_script("train.py", *LONG, f"--workdir={workdir}")
    assert finished.code == 0, finished.err
    assert "resuming from step" in finished.out
    assert _params(workdir) == _params(unkilled)
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workdir, unkilled)
    ]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]


def test_a_second_trainer_is_refused(tmp_path):
    workdir = tmp_path / "run"
    process = _start(workdir)
    try:
        _wait_for_rows(workdir, 1, process)
        process.send_signal(signal.SIGSTOP)
        finished = run_script("train.py", *LONG, f"--workdir={workdir}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert finished.code == 2
    assert "another trainer is running" in finished.err


@pytest.mark.slow
def test_mnist_trains_and_evaluates_where_it_is_prepared(mnist_directory, tmp_path):
    common = f"--config.dataset.data_dir={mnist_directory}"
    finished = run_script(
        "train.py",
        "--config=configs/mnist.py",
        common,
        "--config.dataset.train_split=train[:600]",
        "--config.dataset.test_split=test[:30]",
        "--config.dataset.num_validation=100",
        "--config.training.num_epochs=1",
        "--config.model.encoder=mlp(hidden_dims=(16,))",
        f"--workdir={tmp_path}/run",
    )
    assert finished.code == 0, finished.err
    finished = run_script("evaluate.py", f"--workdir={tmp_path}/run", "--num_samples=5")
    assert finished.code == 0, finished.err
    assert "mnist test, 30 examples" in finished.out


def test_scripts_are_short_and_say_how_to_run_them():
    for script in (ROOT / "scripts").glob("*.py"):
        text = script.read_text()
        assert f"python scripts/{script.name}" in text
        assert len(text.splitlines()) <= 60, script


def test_help_lists_the_flags():
    command = [sys.executable, "scripts/train.py", "--helpshort"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert "--workdir" in output.stdout
    assert "--config.some.key=value" in output.stdout
