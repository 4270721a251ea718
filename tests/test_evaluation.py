"""Estimates and errors over a data set: exact where possible, independent of chunking."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, small_models

from vaejax.evaluation import examples as evaluation
from vaejax.models import linear_gaussian
from vaejax.objectives import bounds, importance
from vaejax.types import LogTerms


def _evaluate(model, params, x, *, num_samples=30, chunk_size=1000, function=None):
    evaluator = evaluation.make_evaluator(
        function or evaluation.evaluate_example,
        model=model,
        num_examples=len(x),
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    parts = evaluation.evaluate_batches(evaluator, params, jax.random.key(0), x)
    return evaluation.concatenate(list(parts))


@pytest.fixture
def run(spec):
    model = small_models(spec)["mlp-2"]
    params = jax.jit(model.init)(jax.random.key(0))
    x = (np.random.default_rng(0).uniform(size=(7, spec.size)) < spec.mean).astype(np.uint8)
    return model, params, x


def test_every_estimate_equals_its_definition(run):
    """Recomputed one sample at a time in numpy from keys (example, sample)."""
    model, params, x = run
    result = _evaluate(model, params, x, num_samples=12)

    @jax.jit
    def one(i, j):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), j)
        return importance.log_terms(params, key, jnp.float32(x[i]), model=model)

    x = jnp.asarray(x)
    for i in (0, 6):
        terms = jax.tree.map(lambda *t: np.array(t), *[one(i, j) for j in range(12)])
        log_weights = terms.log_likelihood + terms.log_prior - terms.log_posterior
        expected = {
            "elbo": log_weights.mean(),
            "reconstruction": terms.log_likelihood.mean(),
            "kl": (terms.log_posterior - terms.log_prior).mean(),
            "iwae_1": log_weights.mean(),
            "iwae_5": np.log(np.exp(log_weights[:10].reshape(2, 5)).mean(axis=1)).mean(),
            "iwae_12": np.log(np.exp(log_weights).mean()),
        }
        assert set(expected) == set(result.values)
        for name, value in expected.items():
            np.testing.assert_allclose(result.values[name][i], value, rtol=1e-4, err_msg=name)
        weights = np.exp(log_weights - log_weights.max())
        np.testing.assert_allclose(
            result.ess[i], weights.sum() ** 2 / (weights**2).sum(), rtol=1e-4
        )
        np.testing.assert_allclose(
            result.variances["elbo"][i], log_weights.var(ddof=1) / 12, rtol=1e-3
        )


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
def test_result_does_not_depend_on_memory_chunks(run, chunk_size):
    model, params, x = run
    reference = _evaluate(model, params, x, chunk_size=30)
    other = _evaluate(model, params, x, chunk_size=chunk_size)
    for name, values in reference.values.items():
        np.testing.assert_allclose(other.values[name], values, rtol=2e-6, err_msg=name)


def test_result_of_an_example_does_not_depend_on_the_others(run):
    """Batches and padding: the first three of seven examples are the same alone."""
    model, params, x = run
    alone, together = (_evaluate(model, params, rows) for rows in (x[:3], x))
    for name, values in alone.values.items():
        np.testing.assert_allclose(values, together.values[name][:3], rtol=2e-6, err_msg=name)


_TWO_DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import test_evaluation
test_evaluation.print_values()
"""


def print_values():
    """Prints the values of a fixed evaluation, for a process with other devices."""
    from vaejax.types import DataSpec

    model = small_models(DataSpec((3, 4, 1), np.linspace(0.05, 0.95, 12)))["mlp-2"]
    params = jax.jit(model.init)(jax.random.key(0))
    x = (np.random.default_rng(0).uniform(size=(7, 12)) < 0.5).astype(np.uint8)
    result = _evaluate(model, params, x, num_samples=10)
    values = {name: value.tolist() for name, value in result.values.items()}
    print(json.dumps({"devices": jax.device_count(), "values": values}))


def test_result_does_not_depend_on_the_number_of_devices():
    results = {}
    for count in (1, 3):
        flags = f"--xla_force_host_platform_device_count={count}"
        output = subprocess.run(
            [sys.executable, "-c", _TWO_DEVICES, str(ROOT / "tests")],
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        results[count] = json.loads(output.splitlines()[-1])
        assert results[count]["devices"] == count
    for name, values in results[1]["values"].items():
        np.testing.assert_allclose(results[3]["values"][name], values, rtol=2e-6, err_msg=name)


def test_samples_are_those_of_a_larger_run(run):
    """Sample j of example i has its own key: K = 5 are the first five of K = 30."""
    model, params, x = run
    terms = [
        jax.jit(
            lambda key, k=k: importance.chunked_log_terms(
                params, key, jnp.float32(x[0]), model=model, num_samples=k, chunk_size=4
            )
        )(jax.random.key(1))
        for k in (5, 30)
    ]
    np.testing.assert_allclose(terms[0].log_prior, terms[1].log_prior[:5], rtol=1e-6)
    assert len(np.unique(terms[1].log_prior)) == 30


def test_exact_posterior_gives_no_gap_and_no_error(spec):
    model = small_models(spec)["linear_gaussian-full"]
    params = jax.jit(model.init)(jax.random.key(0))
    params["inference"] = linear_gaussian.exact_posterior(params["generative"])
    x = np.random.default_rng(1).uniform(size=(5, spec.size))
    result = evaluation.estimates(_evaluate(model, params, x))
    exact = result["log_marginal"]["value"]
    assert result["log_marginal"]["mc_se"] == 0
    for name in ("elbo", "iwae_1", "iwae_5", "iwae_30"):
        np.testing.assert_allclose(result[name]["value"], exact, atol=1e-4)
        assert result[name]["mc_se"] < 1e-4
    np.testing.assert_allclose(
        result["elbo"]["value"],
        result["reconstruction"]["value"] - result["kl"]["value"],
        atol=1e-4,
    )


def test_monte_carlo_error_is_the_spread_over_seeds(spec):
    """The stated error of each estimate against its standard deviation over 200 keys."""
    model = small_models(spec)["linear_gaussian-diagonal"]
    params = jax.jit(model.init)(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(2).uniform(size=spec.size))

    @jax.jit
    def one(key):
        terms = importance.chunked_log_terms(
            params, key, x, model=model, num_samples=500, chunk_size=500
        )
        return evaluation.summarize_weights(terms)[:2]

    values, variances = jax.vmap(one)(jax.random.split(jax.random.key(3), 200))
    for name in values:
        spread, stated = np.var(values[name], ddof=1), np.mean(variances[name])
        # A sample variance of 200 has relative error sqrt(2/199) = 0.1: four of those.
        assert 0.6 < stated / spread < 1.4, name


def test_data_and_monte_carlo_errors_by_hand():
    values = np.array([1.0, 2.0, 6.0])
    per_example = evaluation.PerExample(
        {"elbo": values}, {"elbo": np.array([0.01, 0.04, 0.04])}, np.ones(3), [], []
    )
    row = evaluation.estimates(per_example)["elbo"]
    np.testing.assert_allclose(row["value"], 3.0)
    np.testing.assert_allclose(row["mc_se"], 0.3 / 3)
    np.testing.assert_allclose(row["data_se"], values.std(ddof=1) / np.sqrt(3))


def test_unknown_errors_are_null_in_json_not_zero():
    terms = LogTerms(*(jnp.zeros(1),) * 3)
    values, variances, _ = evaluation.summarize_weights(terms)
    stack = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
    per_example = evaluation.PerExample(stack(values), stack(variances), np.ones(1), [], [])
    row = evaluation.estimates(per_example)["iwae_1"]
    assert row == {"value": 0.0, "mc_se": None, "data_se": None}


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(1, (1,)), (4, (1, 4)), (50, (1, 5, 50)), (5000, (1, 5, 50, 500, 5000)), (6, (1, 5, 6))],
)
def test_bounds_are_reported_up_to_k(num_samples, expected):
    assert evaluation.bound_sizes(num_samples) == expected


def test_validation_bounds_are_the_evaluation_of_the_same_samples(run):
    model, params, x = run
    full = _evaluate(model, params, x, num_samples=10)
    quick = _evaluate(model, params, x, num_samples=10, function=evaluation.validation_bounds)
    np.testing.assert_allclose(quick["elbo"], full.values["elbo"], rtol=1e-5)
    np.testing.assert_allclose(quick["iwae"], full.values["iwae_10"], rtol=1e-5)


def test_active_units_are_counted_per_layer(spec):
    """Two of three first-layer units follow x, none of the second layer does."""
    model = small_models(spec)["mlp-2"]
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0)))
    first = params["inference"][0]["params"]
    first["Dense_0"]["kernel"] = first["Dense_0"]["kernel"].at[0, 0].set(3.0)
    first["Dense_1"]["kernel"] = first["Dense_1"]["kernel"].at[0, :2].set(1.0)
    x = np.zeros((40, spec.size), np.uint8)
    x[::2, 0] = 1
    per_example = _evaluate(model, params, x, num_samples=2)
    assert evaluation.summarize_diagnostics(per_example)["active_units"] == [2, 0]


def test_share_of_examples_with_low_ess(run):
    per_example = evaluation.PerExample({}, {}, np.array([50.0, 150.0, 99.0, 400.0]), [], [])
    summary = evaluation.summarize_diagnostics(per_example)
    assert summary["ess_below_100"] == 0.5
    assert summary["ess_median"] == 124.5


def test_mean_of_log_weights_near_minus_ten_thousand_keeps_its_digits():
    noise = np.random.default_rng(4).normal(size=5000)
    terms = LogTerms(jnp.float32(noise - 1e4), jnp.zeros(5000), jnp.zeros(5000))
    values, _, _ = evaluation.summarize_weights(terms)
    exact = np.float32(noise - 1e4).astype(np.float64).mean()
    np.testing.assert_allclose(values["elbo"], exact, atol=2e-3)
    assert values["iwae_5000"] > values["elbo"]
    np.testing.assert_array_equal(values["iwae_1"], bounds.elbo(terms.log_likelihood))
