"""The installed command, and the files that come with the package."""

import configparser
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vaejax
from vaejax import config as config_lib
from vaejax import python_files
from vaejax.__main__ import COMMANDS
from vaejax.errors import UserError


def _vaejax(*arguments, folder):
    command = [sys.executable, "-m", "vaejax", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_every_script_that_is_no_benchmark_is_a_command():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {name for name in scripts if not name.startswith("benchmark")} == set(COMMANDS)


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert python_files.shipped("configs/digits.py").is_file()
    assert config_lib.load("configs/digits.py").training.num_epochs == 300
    with pytest.raises(UserError, match=r"did you mean 'configs/digits\.py'"):
        config_lib.load("configs/digitz.py")
    with pytest.raises(UserError, match=r"unknown 'other/digits\.py'"):
        config_lib.load("other/digits.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("get_config = lambda: 1\n")
    with pytest.raises(UserError, match="must return"):  # one's own file comes first
        config_lib.load("configs/digits.py")


def test_an_unknown_command_is_refused_on_one_line(tmp_path):
    finished = _vaejax("trian", folder=tmp_path)
    assert finished.returncode == 2
    assert "did you mean 'train'" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_every_extra_is_of_packages_that_are_named():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    assert {"cuda12", "cuda13", "tpu", "ray", "test", "prepare", "optuna"} <= set(extras)
    assert "py.typed" in setup["options.package_data"]["vaejax"]


@pytest.mark.slow
def test_a_command_is_its_script(tmp_path):
    assert all(name in _vaejax(folder=tmp_path).stdout for name in COMMANDS)
    shown = _vaejax(
        "train", "--config=configs/digits.py", "--help_config", "epochs", folder=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "training.num_epochs = 300  (configs/digits.py)" in shown.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_build_holds_scripts_and_configs(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    command += ["egg_info", "--egg-base", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    package = tmp_path / "lib" / "vaejax"
    for name in ("configs/digits.py", "configs/sweeps/bounds.py", "scripts/train.py", "py.typed"):
        assert (package / name).is_file(), name
    assert not list(package.rglob("benchmark*"))
    assert list(package.rglob("*.html"))


def test_the_lock_holds_every_dependency_above_its_lower_bound():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [*setup["options"]["install_requires"].split("\n")]
    wanted += setup["options.extras_require"]["test"].split("\n")
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, filter(None, wanted)):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_version_is_the_same_wherever_it_stands():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {vaejax.__version__}\n" in citation
    assert f"\n## [{vaejax.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()
