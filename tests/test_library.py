"""vaejax as a library: bounds of one example, runs as values, and what the docs show."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, small_config, small_model
from rich.console import Console

import vaejax
from vaejax.runs import evaluate as evaluate_run
from vaejax.training import train as train_lib
from vaejax.types import DataSpec

QUIET = Console(quiet=True)


def _images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, 4, 3)).astype(np.uint8)


def _config(**overrides):
    small = {"dataset__num_validation": 8, "dataset__binarization": "none"}
    small |= {"training__batch_size": 8, "training__num_epochs": 2}
    return small_config(**small | overrides)


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, vaejax; names = dir(vaejax); "
        "assert {'elbo', 'iwae', 'load', 'train', 'evaluate', 'Config'} <= set(names); "
        "assert not {'jax', 'numpy', 'vaejax.library'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_every_public_name_is_there_and_others_are_not():
    for name in vaejax.__all__:
        assert getattr(vaejax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'elbow'"):
        _ = vaejax.elbow
    typed = (ROOT / "vaejax" / "__init__.py").read_text()
    for name in vaejax.__all__:
        assert f"import {name} as {name}\n" in typed


def test_bounds_bracket_and_reach_the_exact_log_marginal(spec):
    model = small_model("linear_gaussian-diagonal", spec)
    params = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), spec.shape)
    keys = jax.random.split(jax.random.key(2), 100)

    def mean(bound, count):
        one = lambda key: bound(params, key, x, model=model, num_samples=count)
        values = jax.jit(jax.vmap(one))(keys)
        return float(jnp.mean(values)), float(jnp.std(values)) / 10

    exact = float(model.log_marginal(params, x))
    elbo, elbo_se = mean(vaejax.elbo, 10)
    iwae, iwae_se = mean(vaejax.iwae, 1000)
    assert elbo < exact - 4 * elbo_se
    assert abs(iwae - exact) < 4 * iwae_se


@pytest.mark.slow
def test_whole_numbers_are_taken_as_floats(spec):
    model = small_model("mlp-1", spec)
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    x = np.ones(spec.shape, np.uint8)
    found = [
        vaejax.iwae(params, key, value, model=model, num_samples=3)
        for value in (x, x.astype(np.float32))
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == ()


@pytest.mark.parametrize("count", [0, 2.0, "3"])
def test_a_number_of_samples_that_is_none_is_refused(count):
    with pytest.raises(vaejax.UserError, match="num_samples: needs a whole number >= 1"):
        vaejax.iwae({}, None, np.zeros(2), model=None, num_samples=count)


@pytest.mark.slow
def test_runs_on_arrays_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = {"train": _images(40), "test": _images(10, seed=1)}
    run = vaejax.train(_config(), images)
    assert [row["step"] for row in run.history] == [4, 8]
    assert "validation/iwae" in run.history[-1]
    assert [len(held_out.x) for held_out in run.data] == [32, 8, 10]
    found = vaejax.evaluate(run, split="validation", num_samples=10)
    assert found.estimates["elbo"].value <= found.estimates["iwae_10"].value
    logged = run.history[-1]["validation/elbo"]
    np.testing.assert_allclose(found.estimates["elbo"].value, logged, rtol=1e-5)
    assert found.per_example["value/elbo"].shape == (8,)
    assert not list(tmp_path.iterdir())


REFUSED = {
    "split": ({"train": 0, "test": 0, "validate": 0}, "images: unknown 'validate'"),
    "no test": ({"train": 0}, "images: needs 'test', got train"),
    "nothing": ({}, "images: needs 'train', got nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_of_unknown_splits_are_refused(name):
    images, message = REFUSED[name]
    with pytest.raises(vaejax.UserError, match=message):
        vaejax.train(_config(), images)


def test_what_has_no_effect_is_warned_of():
    config = small_config(training__num_epochs=1, optimizer__final_scale=0.5)
    with pytest.warns(UserWarning, match=r"config\.optimizer\.final_scale: has no effect"):
        vaejax.train(config)


def test_a_model_of_bad_options_is_refused():
    with pytest.raises(vaejax.UserError, match=r"config\.model\.latent_dims"):
        vaejax.build(vaejax.Model(latent_dims=(0,)), (4, 3, 1))
    made = vaejax.build(vaejax.Model(latent_dims=(2,)), (4, 3, 1))
    assert made is vaejax.build(vaejax.Model(latent_dims=(2,)), DataSpec((4, 3, 1), None))


def _same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [{}, {"training__patience": 2, "training__num_epochs": 6}, {"training__ema_decay": 0.9}],
)
def test_training_in_memory_and_in_a_folder_agree_to_the_bit(overrides, tmp_path):
    config = small_config(**overrides)
    train_lib.train(config, tmp_path / "run", console=QUIET)
    loaded, made = vaejax.load(tmp_path / "run"), vaejax.train(config)
    _same(loaded.params, made.params)
    assert loaded.config == made.config
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in loaded.history]
    assert without == made.history
    result = evaluate_run.evaluate(tmp_path / "run", console=QUIET)
    for run in (loaded, made):
        assert vaejax.evaluate(run).estimates == result.estimates
        assert vaejax.evaluate(run).diagnostics == result.diagnostics


@pytest.mark.slow
def test_a_split_of_its_own_and_parameters_of_another_run(tmp_path):
    images = {"train": _images(40), "test": _images(10, 1), "validation": _images(9, 2)}
    run = vaejax.train(_config(), images)
    assert [len(held_out.x) for held_out in run.data] == [40, 9, 10]
    with pytest.raises(vaejax.UserError, match="split: unknown 'tset'"):
        vaejax.evaluate(run, split="tset")
    with pytest.raises(vaejax.UserError, match=r"evaluation\.num_samples: must be"):
        vaejax.evaluate(run, num_samples=0)
    del images["validation"]
    alone = vaejax.train(_config(dataset__num_validation=0), images)
    with pytest.raises(vaejax.UserError, match="no validation images"):
        vaejax.evaluate(alone, split="validation")
    config = small_config(training__num_epochs=1)
    train_lib.train(config, tmp_path / "run", console=QUIET)
    frozen = small_config(
        training__num_epochs=1,
        training__start_from=str(tmp_path / "run"),
        training__parameters="inference",
    )
    theirs, ours = vaejax.load(tmp_path / "run"), vaejax.train(frozen)
    _same(theirs.params["generative"], ours.params["generative"])


@pytest.mark.slow
def test_the_examples_of_the_docs_run(monkeypatch, tmp_path):
    text = (ROOT / "docs" / "library.md").read_text()
    train_lib.train(small_config(), tmp_path / "runs" / "digits", console=QUIET)
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, scope)  # one after another, as a reader types them
    assert json.dumps(float(scope["value"]))
