"""Meshes of devices: how they are chosen, and that results do not depend on them."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from run_script import run_script

from vaejax import meshes
from vaejax.errors import UserError


def test_a_layout_is_read():
    assert meshes.parse("members:2,data:4") == meshes.Layout(2, 4)
    assert meshes.parse("data:3") == meshes.Layout(None, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch:2", "--mesh: unknown 'batch'"),
        ("dat:2", "did you mean 'data'"),
        ("data", "needs data:N once"),
        ("data:0", "needs data:N once"),
        ("data:-1", "needs data:N once"),
        ("data:2,data:2", "needs data:N once"),
        ("members:1e3", "needs members:N once"),
        ("", "unknown ''"),
    ],
)
def test_a_wrong_layout_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        meshes.parse(text)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (meshes.Layout(4096, 4096), "4096 x 4096 devices, there"),
        (meshes.Layout(None, 4096), "choose at most"),
    ],
)
def test_a_mesh_larger_than_the_devices_is_refused(layout, said):
    with pytest.raises(UserError, match=said):
        meshes.choose(layout, num_members=1, batch_size=4096)


def test_scripts_say_what_is_wrong_with_a_mesh(tmp_path):
    found = run_script(
        "train.py",
        f"--config={ROOT}/configs/digits.py",
        f"--workdir={tmp_path / 'run'}",
        "--mesh=data:4096",
    )
    assert found.code == 2
    assert found.err.startswith("error: --mesh: needs 1 x 4096 devices")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a process with four devices found."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "mesh_child.py")]
    done = subprocess.run(
        [*command, str(tmp_path_factory.mktemp("meshes"))],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_parameters_do_not_depend_on_the_mesh(found):
    """44 steps of Adam; a run moved between meshes by its checkpoint among them."""
    assert found["devices"] == 4
    assert len(found["params"]) == 7
    for mesh, distance in found["params"].items():
        assert distance < 1e-5, mesh


@pytest.mark.slow
def test_evaluations_do_not_depend_on_the_mesh(found):
    for data in ("2", "4"):
        for name, value in found["bounds"]["1"].items():
            assert abs(found["bounds"][data][name] - value) < 1e-4, (data, name)


@pytest.mark.slow
def test_an_evaluation_of_one_run_is_the_same_on_any_number_of_devices(found):
    """Its means to 1e-5 nat; an example to 3e-5, 15 steps of float32 at its 30 nats."""
    assert set(found["evaluations"]) == {"2", "4"}
    for count, off in found["evaluations"].items():
        assert set(off) >= {"elbo", "iwae_50"}
        for name, (mean, spread) in off.items():
            assert mean <= 1e-5, (count, name)
            assert spread <= 3e-5, (count, name)
