"""--profile: what an operation costs by itself, and that every script writes and shows it."""

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from run_script import run_script

from vaejax.experiment import profile
from vaejax.experiment.profile import Event

SMALL = (
    f"--config={ROOT}/configs/digits.py",
    "--config.model.latent_dims=(3,)",
    "--config.model.encoder=mlp(hidden_dims=(8,))",
    "--config.training.num_epochs=2",
    "--config.evaluation.num_samples=20",
)


def test_a_loop_does_not_count_what_its_body_does():
    events = [
        Event("while", "jit_f", 0.0, 10.0),
        Event("dot", "jit_f", 1.0, 3.0),
        Event("fusion", "jit_f", 1.0, 1.0),
        Event("dot", "jit_f", 5.0, 2.0),
        Event("dot", "jit_g", 10.0, 4.0),
    ]
    found = profile.self_seconds(events)
    assert found == {
        ("while", "jit_f"): 5.0,
        ("dot", "jit_f"): 4.0,
        ("fusion", "jit_f"): 1.0,
        ("dot", "jit_g"): 4.0,
    }
    assert sum(found.values()) == 14.0  # as long as the thread was at work


def test_a_trace_is_read(tmp_path):
    @jax.jit
    def slow(x):
        return jax.lax.fori_loop(0, 20, lambda i, x: x @ x * 1e-3, x)

    x = slow(jnp.ones((200, 200))).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        slow(x).block_until_ready()
    (path,) = tmp_path.rglob("*.xplane.pb")
    found = profile.read(path)
    assert {program for _, program in found} == {"jit_slow"}
    assert min(found.values()) >= 0
    (operation, _), _ = max(found.items(), key=lambda item: item[1])
    assert not operation.startswith("while")  # its body costs more than the loop


@pytest.mark.slow
def test_every_script_writes_a_trace_and_shows_what_cost_most(tmp_path):
    run = tmp_path / "run"
    commands = (
        ("train.py", *SMALL, f"--workdir={run}"),
        ("evaluate.py", f"--workdir={run}"),
        (
            "sweep.py",
            *SMALL,
            f"--sweep={ROOT}/configs/sweeps/learning_rates.py",
            f"--workdir={tmp_path / 'sweep'}",
        ),
    )
    for command in commands:
        folder = tmp_path / command[0]
        found = run_script(*command, f"--profile={folder}", COLUMNS="200")
        assert found.code == 0, found.err
        assert f"the {profile.MOST_SHOWN} costliest operations" in found.out
        assert found.out.count("jit_") == profile.MOST_SHOWN
        assert len([*folder.rglob("*.xplane.pb")]) == 1


@pytest.mark.slow
def test_a_profile_that_cannot_be_had_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    train = ("train.py", *SMALL, f"--workdir={tmp_path / 'run'}")
    found = run_script(*train, f"--profile={tmp_path / 'file'}")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "is a file, a folder is needed" in found.err
    sweep = f"--sweep={ROOT}/configs/sweeps/learning_rates.py"
    flags = (*SMALL, sweep, f"--workdir={tmp_path / 'sweep'}", "--launcher=ray")
    found = run_script("sweep.py", *flags, f"--profile={tmp_path / 'trace'}")
    assert found.code == 2
    assert found.err.startswith("error: --profile: traces this process")
    assert not (tmp_path / "run").exists()
