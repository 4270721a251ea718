"""Estimates and errors over a data set: exact where possible, independent of chunking."""

import dataclasses
import json
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODELS, ROOT, model_config, small_config, small_model

from vaejax import keys
from vaejax.errors import UserError
from vaejax.evaluation import inference_gaps, mapping, per_example, results, summary, validation
from vaejax.evidence import weights
from vaejax.evidence.weights import Weights
from vaejax.models import distributions, latent_variable, linear_gaussian
from vaejax.objectives import bounds, importance
from vaejax.types import DataSpec, LogTerms


def _evaluate(model, params, x, *, num_samples=30, chunk_size=1000):
    example_map = per_example.make(
        model, num_examples=len(x), num_samples=num_samples, chunk_size=chunk_size
    )
    return mapping.over_examples(example_map, params, jax.random.key(0), x)


def _per_example(values, variances=None, ess=None, pareto_k=None, **fields):
    """Results of a few examples, made by hand."""
    size = len(next(iter(values.values())))
    none = np.zeros(size)
    return per_example.PerExample(
        Weights(
            values,
            variances or dict.fromkeys(values, none),
            np.full(size, 500.0) if ess is None else ess,
            none if pareto_k is None else pareto_k,
        ),
        **{"exact": {}, "unit_means": [], "unit_noise": []} | fields,
    )


@pytest.fixture
def run(spec):
    model = small_model("mlp-2", spec)
    params = jax.jit(model.init)(jax.random.key(0))
    uniform = np.random.default_rng(0).uniform(size=(7, *spec.shape))
    return model, params, (uniform < spec.mean).astype(np.uint8)


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
        without = [np.log(np.exp(np.delete(log_weights, j)).mean()) for j in range(12)]
        expected["jackknife"] = 12 * expected["iwae_12"] - 11 * np.mean(without)
        found = result.weights
        assert set(expected) == set(found.values) == set(found.variances)
        for name, value in expected.items():
            np.testing.assert_allclose(found.values[name][i], value, rtol=1e-4, err_msg=name)
        relative = np.exp(log_weights - log_weights.max())
        ess = relative.sum() ** 2 / (relative**2).sum()
        np.testing.assert_allclose(found.ess[i], ess, rtol=1e-4)
        variances = {
            "elbo": log_weights.var(ddof=1) / 12,
            "iwae_12": 1 / ess - 1 / 12,
            "jackknife": 11 * np.var(without),
        }
        for name, value in variances.items():
            np.testing.assert_allclose(found.variances[name][i], value, rtol=2e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
def test_result_does_not_depend_on_memory_chunks(run, chunk_size):
    model, params, x = run
    reference = _evaluate(model, params, x, chunk_size=30)
    other = _evaluate(model, params, x, chunk_size=chunk_size)
    for name, values in reference.weights.values.items():
        np.testing.assert_allclose(other.weights.values[name], values, rtol=2e-6, err_msg=name)


def test_result_of_an_example_does_not_depend_on_the_others(run):
    """Batches and padding: the first three of seven examples are the same alone."""
    model, params, x = run
    alone, together = (_evaluate(model, params, rows) for rows in (x[:3], x))
    for name, values in alone.weights.values.items():
        np.testing.assert_allclose(
            values, together.weights.values[name][:3], rtol=2e-6, err_msg=name
        )


_TWO_DEVICES = """
import sys
sys.path.insert(0, sys.argv[1])
import test_evaluation
test_evaluation.print_values()
"""


def print_values():
    """Prints the values of a fixed evaluation, for a process with other devices."""
    spec = DataSpec((2, 6, 1), np.linspace(0.05, 0.95, 12).reshape(2, 6, 1))
    model = small_model("mlp-2", spec)
    params = jax.jit(model.init)(jax.random.key(0))
    x = (np.random.default_rng(0).uniform(size=(7, *spec.shape)) < 0.5).astype(np.uint8)
    found = _evaluate(model, params, x, num_samples=10)
    values = {name: value.tolist() for name, value in found.weights.values.items()}
    values["unit_means"] = np.concatenate(found.unit_means, axis=1).tolist()
    print(json.dumps({"devices": jax.device_count(), "values": values}))


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_devices():
    found = {}
    for count in (1, 3):
        flags = f"--xla_force_host_platform_device_count={count}"
        output = subprocess.run(
            [sys.executable, "-c", _TWO_DEVICES, str(ROOT / "tests")],
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found[count] = json.loads(output.splitlines()[-1])
        assert found[count]["devices"] == count
    for name, values in found[1]["values"].items():
        np.testing.assert_allclose(
            found[3]["values"][name], values, rtol=2e-6, atol=1e-6, err_msg=name
        )


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
    model = small_model("linear_gaussian-full", spec)
    params = jax.jit(model.init)(jax.random.key(0))
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    params["inference"] = linear_gaussian.inference_params(exact)
    x = np.random.default_rng(1).uniform(size=(5, *spec.shape))
    rows = summary.estimates(_evaluate(model, params, x))
    truth = rows["log_marginal"].value
    assert rows["log_marginal"].mc_se == 0
    for name in ("elbo", "iwae_1", "iwae_5", "iwae_30"):
        np.testing.assert_allclose(rows[name].value, truth, atol=1e-4)
        assert rows[name].mc_se < 1e-4
    parts = rows["reconstruction"].value - rows["kl"].value
    np.testing.assert_allclose(rows["elbo"].value, parts, atol=1e-4)


def test_monte_carlo_error_is_the_spread_over_seeds(spec):
    """The stated error of each estimate against its standard deviation over 200 keys."""
    model = small_model("linear_gaussian-diagonal", spec)
    params = jax.jit(model.init)(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(2).uniform(size=spec.shape))

    @jax.jit
    def one(key):
        terms = importance.chunked_log_terms(
            params, key, x, model=model, num_samples=500, chunk_size=500
        )
        return weights.summarize(terms)[:2]

    values, variances = jax.vmap(one)(jax.random.split(jax.random.key(3), 200))
    for name in values:
        spread, stated = np.var(values[name], ddof=1), np.mean(variances[name])
        # A sample variance of 200 has relative error sqrt(2/199) = 0.1: four of those.
        assert 0.6 < stated / spread < 1.4, name


def test_data_and_monte_carlo_errors_by_hand():
    values = np.array([1.0, 2.0, 6.0])
    found = _per_example({"elbo": values}, {"elbo": np.array([0.01, 0.04, 0.04])})
    row = summary.estimates(found)["elbo"]
    np.testing.assert_allclose(row.value, 3.0)
    np.testing.assert_allclose(row.mc_se, 0.3 / 3)
    np.testing.assert_allclose(row.data_se, values.std(ddof=1) / np.sqrt(3))


def test_unknown_errors_are_null_in_json_not_zero():
    found = jax.tree.map(np.asarray, weights.summarize(LogTerms(*(jnp.zeros(1),) * 3)))
    stacked = jax.tree.map(lambda leaf: leaf[None], found)
    rows = summary.estimates(_per_example(stacked.values, stacked.variances))
    plain = results.to_json(rows["iwae_1"])
    assert (plain["value"], plain["mc_se"], plain["data_se"]) == (0.0, None, None)
    assert np.isnan(stacked.variances["jackknife"])
    assert np.isnan(stacked.pareto_k)


def test_values_that_are_not_finite_are_counted_and_leave_no_mean():
    found = _per_example(
        {"elbo": np.array([1.0, np.nan, np.inf]), "kl": np.array([1.0, 2.0, 3.0])},
        ess=np.array([500.0, np.nan, 500.0]),
        pareto_k=np.array([0.1, np.nan, 0.1]),
    )
    rows = summary.estimates(found)
    assert (rows["elbo"].not_finite, rows["kl"].not_finite) == (2, 0)
    assert results.to_json(rows["elbo"])["value"] is None
    assert results.to_json(rows["kl"])["value"] == 2.0
    assert summary.not_finite_lines(list(rows.items())) == [
        "elbo: 2 of 3 values are not finite; their mean says nothing"
    ]
    assert summary.diagnostics(found, num_samples=100).do_not_trust == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(1, (1,)), (4, (1, 4)), (50, (1, 5, 50)), (5000, (1, 5, 50, 500, 5000)), (6, (1, 5, 6))],
)
def test_bounds_are_reported_up_to_k(num_samples, expected):
    assert weights.bound_sizes(num_samples) == expected


def _validate(model, params, x, **options):
    config = small_config(training__validation_samples=10, evaluation__seed=3)
    return validation.make(config, model, x, **options)(params)()


def test_validation_gives_the_numbers_of_an_evaluation_of_that_split(run):
    """The same samples: what a run logs is what evaluate.py --split=validation finds."""
    model, params, x = run
    example_map = per_example.make(model, num_examples=len(x), num_samples=10, chunk_size=1000)
    full = mapping.over_examples(example_map, params, per_example.key_of(3, "validation"), x)
    quick = _validate(model, params, x)
    expected = {"validation/elbo": "elbo", "validation/iwae": "iwae_10"}
    assert set(quick) == set(expected)
    for name, row in expected.items():
        assert isinstance(quick[name], float)
        np.testing.assert_allclose(quick[name], full.weights.values[row].mean(), rtol=1e-5)


@pytest.mark.slow
def test_runs_validated_together_are_as_alone(run):
    model, params, x = run
    every = [jax.tree.map(lambda leaf, c=c: c * leaf, params) for c in (1.0, 0.5, 2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)
    together = _validate(model, stacked, x, num_runs=3)
    for index, one in enumerate(every):
        for name, value in _validate(model, one, x).items():
            np.testing.assert_allclose(together[name][index], value, rtol=2e-6)
    single = jax.tree.map(lambda leaf: leaf[None], params)
    alone = _validate(model, single, x, num_runs=1)
    assert all(value.shape == (1,) for value in alone.values())


def test_runs_of_one_model_share_their_compiled_programs(run):
    model = run[0]
    same = latent_variable.build(model_config(**MODELS["mlp-2"]), _spec())
    again = latent_variable.build(model_config(**MODELS["mlp-2"]), _spec())
    assert same is again
    options = {"num_examples": 7, "num_samples": 3, "chunk_size": 10}
    assert per_example.make(same, **options) is per_example.make(again, **options)
    assert per_example.make(same, **options) is not per_example.make(model, **options)


def _spec():
    return DataSpec((2, 6, 1), None)


def test_a_chunk_above_the_work_pads_nothing():
    def one(params, key, x):
        return jnp.sum(x)

    for size in (10, 10_000_000):
        budget = mapping.Budget(rows=1, max_rows=size, work=1)
        example_map = mapping.make(one, num_examples=10, budget=budget)
        assert example_map.examples_per_call == 10


@pytest.mark.slow
def test_memory_does_not_grow_with_k():
    """Temporary memory of the compiled program, K = 500 against K = 20,000 in chunks of 100.

    What grows is one example's K log weights, and what sorts them (50 numbers each at most),
    not its K decoder outputs of 400 numbers.
    """
    model = latent_variable.build(model_config(**MODELS["mlp-1"]), DataSpec((20, 20, 1), None))
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((7, 20, 20, 1), jnp.float32)
    size = {}
    for count in (500, 20_000):
        run = per_example.make(model, num_examples=7, num_samples=count, chunk_size=100).run
        call = jax.jit(lambda params, x, run=run: run(params, jax.random.key(0), jnp.arange(7), x))
        compiled = call.lower(params, x).compile()
        size[count] = compiled.memory_analysis().temp_size_in_bytes
    assert size[20_000] - size[500] < 50 * 4 * 20_000


def test_measured_at_highest_precision_whatever_the_default(run):
    _, params, x = run
    seen = []

    def one(params, key, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return jnp.sum(x)

    budget = mapping.Budget(rows=1, max_rows=10, work=1)
    with jax.default_matmul_precision("bfloat16"):
        mapping.over_examples(
            mapping.make(one, num_examples=7, budget=budget), params, jax.random.key(0), x
        )
    assert set(seen) == {"highest"}


def test_float64_is_neither_cast_down_nor_stamped_float32(x64, spec):
    model = latent_variable.build(model_config(**MODELS["mlp-1"]), DataSpec((2, 2, 1), None))
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0)))
    x = np.random.default_rng(0).uniform(size=(3, 2, 2, 1))
    for rows in (x, (x < 0.5).astype(np.uint8)):
        found = _evaluate(model, params, rows, num_samples=5)
        assert found.weights.values["iwae_5"].dtype == np.float64
        assert found.weights.variances["jackknife"].dtype == np.float64
        assert per_example.dtype(params, rows, model=model) == np.float64


def test_keys_of_purposes_share_nothing():
    """Samples, unit activity, splits: no two of them use one key, at any index."""
    example = jax.random.fold_in(per_example.key_of(0, "test"), 0)
    others = [
        keys.within(example, "evaluation/activity"),
        jax.random.fold_in(per_example.key_of(0, "validation"), 0),
        *(jax.random.fold_in(jax.random.key(0), i) for i in range(100)),
        *(jax.random.fold_in(example, j) for j in range(100)),
    ]
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in [example, *others]}
    assert len(data) == 203


@pytest.mark.slow
def test_unit_means_average_samples_with_keys_of_their_own(run):
    model, params, x = run
    found = _evaluate(model, params, x, num_samples=3)
    example = jax.random.fold_in(jax.random.key(0), 2)
    sample_keys = jax.random.split(keys.within(example, "evaluation/activity"), 64)
    posterior = model.posterior(params, jnp.float32(x[2]))
    layers = jax.vmap(lambda key: distributions.layer_means(posterior, key))(sample_keys)
    for ours, noise, layer in zip(found.unit_means, found.unit_noise, layers, strict=True):
        np.testing.assert_allclose(ours[2], np.mean(layer, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(noise[2], np.var(layer, axis=0, ddof=1) / 64, atol=1e-7)
    assert found.unit_noise[1][2].max() > 0


def test_active_units_are_counted_per_layer(spec):
    """Two of three first-layer units follow x, none of the second layer does."""
    model = small_model("mlp-2", spec)
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0)))
    first = params["inference"]["encoders"][0]["params"]
    first["Dense_0"]["kernel"] = first["Dense_0"]["kernel"].at[0, 0].set(3.0)
    first["Dense_1"]["kernel"] = first["Dense_1"]["kernel"].at[0, :2].set(1.0)
    x = np.zeros((40, *spec.shape), np.uint8)
    x[::2, 0, 0, 0] = 1
    found = _evaluate(model, params, x, num_samples=2)
    assert summary.diagnostics(found, num_samples=2).active_units == (2, 0)


def test_unit_activity_is_computed_in_float64():
    """Means far from 0: float32 would lose the variance."""
    means = np.float64(1e6) + np.linspace(-1e-2, 1e-2, 50)[:, None]
    found = _per_example({"elbo": np.zeros(50)}, unit_means=[means], unit_noise=[0.0 * means])
    (activity,) = per_example.unit_activity(found)
    np.testing.assert_allclose(activity, means.var(axis=0), rtol=1e-6)
    assert activity.dtype == np.float64


def test_shares_of_examples_that_are_flagged():
    found = _per_example(
        {"elbo": np.zeros(4)},
        ess=np.array([50.0, 150.0, 99.0, 400.0]),
        pareto_k=np.array([0.1, 0.9, 0.9, np.nan]),
    )
    shares = summary.diagnostics(found, num_samples=5000)
    assert (shares.ess_below_100, shares.ess_median) == (0.5, 124.5)
    assert (shares.pareto_k_bad, shares.do_not_trust) == (0.75, 1.0)


def test_mean_of_log_weights_near_minus_ten_thousand_keeps_its_digits():
    noise = np.random.default_rng(4).normal(size=5000)
    terms = LogTerms(jnp.float32(noise - 1e4), jnp.zeros(5000), jnp.zeros(5000))
    values = jax.jit(weights.summarize)(terms).values
    exact = np.float32(noise - 1e4).astype(np.float64).mean()
    np.testing.assert_allclose(values["elbo"], exact, atol=2e-3)
    assert values["iwae_5000"] > values["elbo"]
    np.testing.assert_allclose(values["iwae_1"], bounds.elbo(terms.log_likelihood), rtol=1e-6)


def test_a_result_goes_to_json_and_back():
    row = results.Estimate(1.5, float("nan"), 0.1, "lower bound", 3, 0)
    flagged = dataclasses.replace(row, do_not_trust=0.5)
    mean = results.ExampleMean(1.0, 0.1, float("nan"))
    parts = inference_gaps.Parts(mean, mean, mean)
    protocol = results.Protocol(
        **dict.fromkeys(("dataset", "split", "binarization", "data_sha256", "dtype"), "text"),
        **dict.fromkeys(("params_sha256", "precision", "training_precision", "device"), "text"),
        **dict.fromkeys(("num_examples", "num_samples", "checkpoint_step", "seed"), 3),
        **{name: {"a": 1} for name in ("model", "objective", "versions")},
        trained_steps=3,
        num_epochs=2,
        finished=True,
        biased_gradient=None,
    )
    about = {"annealed": {"budget": {"num_chains": 3}}, "gaps": {"budget": {}}}
    result = results.Result(
        protocol,
        {"elbo": row, "annealed": flagged},
        results.Diagnostics(1.0, 0.5, 0.5, 0.5, (2, 0), {"annealed": 3}),
        results.Evidence(results.EvidenceProtocol(3, 0), {"elbo": row}, about, "hash"),
        gaps=inference_gaps.Gaps(mean, mean, mean, "normal", parts, mean, mean, "exact", 3),
    )
    text = json.dumps(results.to_json(result), allow_nan=False)
    again = results.from_json(json.loads(text))
    assert json.dumps(results.to_json(again)) == text
    assert json.loads(text)["evidence"]["annealed"] == about["annealed"]
    chex.assert_trees_all_equal(dataclasses.asdict(again.gaps), dataclasses.asdict(result.gaps))
    broken = json.loads(text)
    del broken["estimates"]["elbo"]["mc_se"]
    with pytest.raises(UserError, match=r"estimates\.elbo\.mc_se is missing"):
        results.from_json(broken)
