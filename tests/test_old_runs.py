"""Runs of vaejax 0.1, of which a small sweep lies in runs-of-0.1: refused, and trained again.

It was made by the last commit of the first edition:
python scripts/sweep.py --config=configs/digits.py --sweep=... --workdir=runs/sweep with two epochs,
hidden_dims=((8,),), latent_dims=(3,), K = 10; its pictures and TensorBoard files were taken away.
"""

import json
import shutil

import pytest
from conftest import ROOT
from run_script import run_script

import vaejax
from vaejax import config as config_lib
from vaejax import schema
from vaejax.config import Config, Dataset, Model, Training
from vaejax.errors import UserError
from vaejax.experiment import config_files
from vaejax.models import latent_variable
from vaejax.storage import first_edition
from vaejax.storage import workdir as workdir_lib
from vaejax.types import DataSpec

SWEEP = ROOT / "tests" / "runs-of-0.1" / "sweep"
RUN = SWEEP / "beta=1.0"
LINEAR = {
    "name": "linear_gaussian",
    "latent_dim": 4,
    "posterior": "full",
    "output_bias": "zero",
}


@pytest.fixture
def sweep(tmp_path):
    return shutil.copytree(SWEEP, tmp_path / "sweep")


def test_the_fixture_is_small():
    assert sum(path.stat().st_size for path in SWEEP.rglob("*")) < 200_000


def test_a_run_is_refused_with_the_command_that_trains_it_again(sweep):
    run = sweep / "beta=1.0"
    for read in (workdir_lib.read_config, vaejax.load):
        with pytest.raises(UserError, match=r"is of vaejax 0\.1, .* train it again") as error:
            read(run)
        command = str(error.value).partition("train it again with ")[2].partition(",")[0]
        assert command == (
            f"python scripts/train.py --config={run}/config.json --workdir=NEW_FOLDER"
        )


def test_its_config_becomes_one_of_today():
    assert config_files.load(str(RUN / "config.json")) == config_lib.validated(
        Config(
            model=Model(latent_dims=(3,), encoder="mlp(hidden_dims=(8,))"),
            training=Training(num_epochs=2, batch_size=64),
            evaluation=config_lib.Evaluation(num_samples=10),
        )
    )


def test_a_linear_gaussian_run_keeps_its_exact_answer():
    old = json.loads((RUN / "config.json").read_text()) | {"model": LINEAR}
    old["dataset"]["binarization"] = "none"
    config = first_edition.converted(old)
    expected = Model(
        latent_dims=(4,),
        posterior="full_normal(shared_scale=True)",
        likelihood="normal",
        encoder="linear",
        output_bias="zero",
    )
    assert config.model == schema.checked(expected)
    assert config.dataset == Dataset(binarization="none")
    assert latent_variable.build(config.model, DataSpec((2, 2, 1), None)).log_marginal is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "mpl"}}, "config.model.name: unknown 'mpl'; did you mean 'mlp'"),
        ({"model": {"name": "mlp"}}, "is none that vaejax 0.1 wrote .'activation'"),
        ({"model": LINEAR | {"posterior": "ful"}}, "is none that vaejax 0.1 wrote .'ful'"),
        ({"model": [1]}, r"config.model: needs an object, got \[1\]"),
        ({"trainings": {"num_epochs": 3}}, "unknown 'trainings.num_epochs'; did you mean"),
        ({"training": {"num_epoch": 3}}, "did you mean 'training.num_epochs'"),
    ],
)
def test_what_is_no_config_is_refused_on_one_line(change, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((RUN / "config.json").read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        config_files.load(str(path))
    assert str(error.value).startswith("--config: ")
    assert "\n" not in str(error.value)


def test_a_config_of_today_comes_back_from_its_run(tmp_path):
    config = config_lib.load("configs/digits.py")
    workdir_lib.claim(tmp_path, config)
    assert config_files.load(str(tmp_path / "config.json")) == config
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        config_files.load(str(tmp_path / "absent.json"))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "evaluate", "sample", "gradients", "sweep", "compare"])
def test_every_script_refuses_it_on_one_line(script, sweep, tmp_path):
    run, config = sweep / "beta=1.0", "--config=configs/digits.py"
    file = tmp_path / "sweep.py"
    file.write_text("get_sweep = lambda: [{'objective.beta': 1.0}]\n")
    arguments = {
        "train": (config, f"--workdir={run}"),
        "sweep": (config, f"--workdir={sweep}", f"--sweep={file}"),
        "compare": (str(sweep), f"--out={tmp_path / 'report'}"),
    }
    before = {path: path.read_bytes() for path in sweep.rglob("*.json*")}
    finished = run_script(f"{script}.py", *arguments.get(script, (f"--workdir={run}",)))
    assert finished.code == 2, finished.err
    assert finished.err.count("\n") == 1
    assert "is of vaejax 0.1, whose parameters this version cannot read" in finished.err
    assert "train it again with python scripts/train.py --config=" in finished.err
    assert {path: path.read_bytes() for path in sweep.rglob("*.json*")} == before


@pytest.mark.slow
def test_the_command_trains_it_again(tmp_path):
    again = tmp_path / "again"
    finished = run_script("train.py", f"--config={RUN / 'config.json'}", f"--workdir={again}")
    assert finished.code == 0, finished.err
    last = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        for folder in (RUN, again)
    ]
    assert last[0]["step"] == last[1]["step"]
    # Other random numbers, 200 validation images: two runs of two epochs are as near as this.
    assert last[1]["validation/iwae"] == pytest.approx(last[0]["validation/iwae"], abs=0.3)
