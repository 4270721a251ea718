"""Clipping, weight decay, and steps that are skipped and counted."""

import functools
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import small_config
from rich.console import Console

from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.runs import evaluate, tables
from vaejax.sweeps import launch
from vaejax.sweeps import members as sweeps
from vaejax.training import optimizers, records, train
from vaejax.training import step as training
from vaejax.training.step import Plan
from vaejax.types import DataSpec

QUIET = Console(quiet=True)
PARAMS = {"generative": {"a": jnp.array([3.0, -1.0])}, "inference": {"b": jnp.array([0.5])}}
GRADIENT = {"generative": {"a": jnp.array([30.0, 40.0])}, "inference": {"b": jnp.array([6.0])}}


@pytest.mark.parametrize("trained", ["all", "inference"])
def test_clipping_and_decay_are_optax_adamws(trained):
    """Of the parameters that are trained alone: the norm of the others does not count."""
    config = small_config(
        optimizer__clip_norm=5.0,
        optimizer__weight_decay=0.1,
        training__parameters=trained,
    )
    own = (lambda tree: tree) if trained == "all" else (lambda tree: tree["inference"])
    optimizer = config.optimizer
    theirs = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adamw(0.02, optimizer.b1, optimizer.b2, optimizer.eps, weight_decay=0.1),
    )
    params, state = PARAMS, optimizers.init(config, PARAMS)
    other, other_state = own(PARAMS), theirs.init(own(PARAMS))
    for scale in (1.0, 1e-2):
        gradient = jax.tree.map(lambda leaf, scale=scale: scale * leaf, GRADIENT)
        params, state = optimizers.update(config, gradient, state, params, rate=0.02)
        updates, other_state = theirs.update(own(gradient), other_state, other)
        other = optax.apply_updates(other, updates)
    chex.assert_trees_all_close(own(params), other, rtol=1e-5)
    if trained != "all":
        chex.assert_trees_all_equal(params["generative"], PARAMS["generative"])


@functools.cache
def _step():
    config = small_config(
        optimizer__skip_norm=1e6,
        training__batch_size=4,
        training__ema_decay=0.5,
        dataset__binarization="threshold",
    )
    model = latent_variable.build(config.model, DataSpec((8, 8, 1), None))
    state = jax.jit(lambda: training.init_state(config, model=model))()
    options = {"config": config, "model": model, "plan": Plan(1, 1, 1)}
    return jax.jit(functools.partial(training.train_step, **options)), state


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts():
    step, state = _step()
    images = jnp.full((4, 8, 8, 1), 9, jnp.uint8)
    poisoned = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), state.params)
    counted = state.opt_state._replace(skipped=jnp.asarray(3, jnp.int32))
    bad = state._replace(params=poisoned, opt_state=counted)
    new, metrics = step(bad, jax.random.key(0), images)
    assert (int(new.step), int(new.skipped)) == (1, 4)
    assert bool(metrics["skipped"])
    kept = lambda state: (state.params, state.opt_state.adam, state.average)
    chex.assert_trees_all_equal(kept(new), kept(bad))
    new, metrics = step(state, jax.random.key(0), images)
    assert (int(new.step), int(new.skipped)) == (1, 0)
    assert not bool(metrics["skipped"])


def test_a_skipped_step_is_neither_a_divergence_nor_in_a_mean():
    plan = Plan(4, 4, 4)
    metrics = {
        "loss": np.array([1.0, np.nan, np.inf, 3.0]),
        "skipped": np.array([False, True, True, False]),
        "skipped_steps": np.array([5, 6, 7, 7]),
        "params_finite": np.array(True),
    }
    assert records.divergence(metrics, step=4) is None
    row = records.metrics_row(plan, metrics, step=4)
    assert row == {"epoch": 1.0, "train/loss": 2.0, "train/skipped_steps": 7.0}
    seen = metrics | {"skipped": np.array([False, True, False, False])}
    assert "the loss is not finite at step 2" in records.divergence(seen, step=4)
    lost = metrics | {"skipped": np.ones(4, bool)}
    assert "all of the 4 steps before step 4 were skipped" in records.divergence(lost, step=4)


RUN = {"training__num_epochs": 2, "training__batch_size": 100}


@pytest.mark.slow
def test_the_count_is_in_metrics_and_results_and_survives_a_restart(tmp_path):
    config = small_config(optimizer__skip_norm=2.4, **RUN)
    train.train(config, tmp_path / "run", console=QUIET)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    counts = [row["train/skipped_steps"] for row in rows if "train/skipped_steps" in row]
    assert 0 < counts[-1] < 28
    assert counts == sorted(counts)
    longer = small_config(optimizer__skip_norm=2.4, **RUN | {"training__num_epochs": 3})
    state = train.train(longer, tmp_path / "run", console=QUIET)
    assert int(state.skipped) >= counts[-1]
    result = evaluate.evaluate(tmp_path / "run", console=QUIET)
    assert result.protocol.skipped_steps == int(state.skipped)
    console = Console(width=200, record=True, file=io.StringIO())
    tables.show(result, console, with_evidence=False)
    assert (
        f"{int(state.skipped)} of {int(state.step)} training steps were skipped"
        in console.export_text()
    )


@pytest.mark.slow
def test_a_run_all_of_whose_steps_are_skipped_says_so(tmp_path):
    config = small_config(optimizer__skip_norm=1e-3, **RUN)
    with pytest.raises(UserError, match=r"were skipped; raise optimizer\.skip_norm"):
        train.train(config, tmp_path / "run", console=QUIET)


def test_clipping_above_what_is_skipped_is_refused():
    with pytest.raises(UserError, match=r"config\.optimizer\.clip_norm: has no effect"):
        small_config(optimizer__clip_norm=5.0, optimizer__skip_norm=5.0)


@pytest.mark.parametrize("bound", ["jackknife", "iwae"])
def test_a_run_and_a_sweep_say_once_that_training_may_run_away(bound, tmp_path):
    config = small_config(
        objective__bound=bound,
        objective__num_samples=4,
        training__num_epochs=1,
        optimizer__learning_rate=1e-5,
    )
    for name, start in (
        ("run", lambda folder, console: train.train(config, folder, console=console)),
        ("sweep", lambda folder, console: _sweep(config, folder, console)),
    ):
        console = Console(width=200, record=True, file=io.StringIO())
        start(tmp_path / name, console)
        said = console.export_text().replace("\n", " ")
        assert said.count("warning: config.objective.bound: jackknife") == (bound == "jackknife")


def _sweep(config, folder, console):
    items = sweeps.values("seed", [0, 1])
    return launch.sweep(config, items, launch.Task(folder), console=console)
