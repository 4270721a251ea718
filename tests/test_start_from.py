"""Runs that begin where another ended, and runs that go on."""

import io
import shutil

import chex
import pytest
from conftest import small_config
from rich.console import Console

from vaejax import config as config_lib
from vaejax.errors import UserError
from vaejax.storage import workdir
from vaejax.training import loop, runs, train
from vaejax.training.standing import Run, Surroundings
from vaejax.types import DataSpec

SPEC = DataSpec((8, 8, 1), None)


def test_a_run_may_start_from_the_parameters_of_another(tmp_path):
    quiet = Console(quiet=True)
    first = train.train(small_config(training__num_epochs=1), tmp_path / "a", console=quiet)
    config = small_config(
        training__num_epochs=1,
        training__start_from=str(tmp_path / "a"),
        training__parameters="inference",
        training__ema_decay=0.5,
    )
    second = train.train(config, tmp_path / "b", console=quiet)
    chex.assert_trees_all_equal(second.params["generative"], first.params["generative"])
    chex.assert_trees_all_equal(second.average["generative"], first.params["generative"])
    with pytest.raises(
        UserError, match=r"start_from: .*another model .*latent_dims: \[2\] != \[3\]"
    ):
        runs.start_params(
            config_lib.override(config, "model.latent_dims", (2,)), SPEC, console=quiet
        )
    with pytest.raises(UserError, match=r"start_from: .*holds no run"):
        runs.start_params(
            config_lib.override(config, "training.start_from", "nowhere"), SPEC, console=quiet
        )


def test_a_start_from_a_run_that_is_not_finished_warns_and_is_needed_only_once(tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    train.train(small_config(training__num_epochs=1), tmp_path / "a", console=console)
    config = small_config(training__num_epochs=2, training__start_from=str(tmp_path / "a"))
    train.train(
        config_lib.override(config, "training.num_epochs", 1), tmp_path / "b", console=console
    )
    assert "not finished" not in console.export_text()
    theirs = tmp_path / "a" / "config.json"
    theirs.write_text(theirs.read_text().replace('"num_epochs": 1', '"num_epochs": 4'))
    assert runs.start_params(config, SPEC, console=console) is not None
    assert "a is at epoch 1 of 4: its training is not finished" in console.export_text()
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write("no row\n{}\n")
    with pytest.raises(UserError, match=r"training\.start_from: .*metrics\.jsonl"):
        runs.start_params(config, SPEC, console=console)
    shutil.rmtree(tmp_path / "a")
    train.train(config, tmp_path / "b", console=console)
    assert "resuming from step" in console.export_text()


def test_seeds_of_one_program_start_each_from_the_run_of_their_own_seed(tmp_path):
    quiet = Console(quiet=True)
    first = {
        seed: train.train(
            small_config(training__num_epochs=1, seed=seed),
            tmp_path / f"a,seed={seed}",
            console=quiet,
        )
        for seed in (0, 1)
    }
    config = small_config(
        training__num_epochs=1,
        training__start_from=str(tmp_path / "a,seed={seed}"),
        training__parameters="inference",
    )
    members = [
        Run(f"b{seed}", tmp_path / f"b{seed}", config_lib.override(config, "seed", seed))
        for seed in (1, 0)
    ]
    around = Surroundings(quiet, lambda: False, lambda *_: None)
    second = loop.train_together(members, around)
    for run, outcome in zip(members, second, strict=True):
        ours, theirs = outcome.state.params, first[run.config.seed].params
        chex.assert_trees_all_equal(ours["generative"], theirs["generative"])


def test_a_run_goes_on_for_more_epochs_as_if_it_had_never_stopped(tmp_path):
    quiet = Console(quiet=True)
    short, long = (small_config(training__num_epochs=n) for n in (1, 2))
    train.train(short, tmp_path / "a", console=quiet)
    continued = train.train(long, tmp_path / "a", console=quiet)
    at_once = train.train(long, tmp_path / "b", console=quiet)
    chex.assert_trees_all_equal(continued, at_once)
    cosine = config_lib.override(short, "optimizer.schedule", "cosine")
    train.train(cosine, tmp_path / "c", console=quiet)
    with pytest.raises(UserError, match=r"training\.num_epochs: 2 != 1"):
        train.train(
            config_lib.override(cosine, "training.num_epochs", 2), tmp_path / "c", console=quiet
        )


def test_places_and_budgets_are_no_part_of_a_run(tmp_path):
    """Another data folder, cadence or evaluation: the same run, and the file says so."""
    quiet = Console(quiet=True)
    config = small_config(training__num_epochs=1)
    train.train(config, tmp_path / "a", console=quiet)
    moved = config_lib.override_all(
        config,
        {
            "training.checkpoint_seconds": 5.0,
            "training.checkpoints_to_keep": 3,
            "evaluation.num_samples": 7,
        },
    )
    state = train.train(moved, tmp_path / "a", console=quiet)
    assert int(state.step) == 7
    assert workdir.read_config(tmp_path / "a") == moved
