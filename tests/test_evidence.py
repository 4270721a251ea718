"""Every estimator of log p(x) against exact values, and what its errors promise."""

import dataclasses
import functools

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc import hmc
from scipy import special, stats

from vaejax.evidence import annealing, budgets, pareto, weights
from vaejax.evidence import estimators as evidence
from vaejax.evidence.diagnostics import Watched
from vaejax.evidence.estimators import bidirectional
from vaejax.evidence.weights import Weights
from vaejax.models import latents, linear_gaussian
from vaejax.objectives import bounds, importance
from vaejax.types import Evidence

NUM_EXAMPLES, NUM_SEEDS, NUM_SAMPLES = 100, 5, 5000
SMALL = {
    "importance": {},
    "annealed": {"num_temperatures": 10, "num_chains": 64, "num_leapfrog": 3},
    "bidirectional": {
        "num_temperatures": 10,
        "num_chains": 64,
        "num_leapfrog": 3,
        "num_simulated": 2,
    },
    # Errors from few repeats are Student-t: 16 of them pass 4 errors once in 1,600 examples.
    "smc": {"num_repeats": 48, "num_particles": 24, "num_moves": 1, "num_leapfrog": 3},
    "quadrature": {"num_nodes": 48},
    "exact": {},
    "gibbs": {"num_temperatures": 5, "num_chains": 8},
}
DISCRETE = ("enumeration", "gibbs")  # what is for discrete latents alone
MODELS = {
    "linear": evidence_models.linear,
    "mixture": evidence_models.mixture,
    "two_layers": evidence_models.two_layers,
}


def _config(name, **changes):
    quick = {"pilot_examples": 4, "pilot_temperatures": 4, "pilot_moves": 10}
    budget = SMALL.get(name, {}) | (quick if "num_leapfrog" in SMALL.get(name, {}) else {})
    return evidence.ESTIMATORS[name].Config(**budget | changes)


@functools.cache
def _problem(which):
    model, params = (MODELS | {"discrete": evidence_models.discrete})[which]()
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=NUM_EXAMPLES)
    return model, params, x


@functools.cache
def _results(which, name):
    """{row: Evidence}, [NUM_SEEDS, NUM_EXAMPLES] each."""
    model, params, x = _problem(which)
    if evidence.reads_evaluation(name):
        found = _weights(model, params, x, num_samples=NUM_SAMPLES, num_seeds=NUM_SEEDS)
        return evidence.ESTIMATORS[name].read(found, num_samples=NUM_SAMPLES)
    estimator = evidence.ESTIMATORS[name].build(_config(name), model=model)
    return jax.tree.map(np.asarray, evidence_models.run(estimator, params, x, num_seeds=NUM_SEEDS))


def _weights(model, params, x, *, num_samples, num_seeds=1):
    """What the evaluation makes of K samples of each example, [num_seeds, len(x)] each."""

    def one(key, x):
        terms = importance.chunked_log_terms(
            params, key, x, model=model, num_samples=num_samples, chunk_size=num_samples
        )
        return weights.summarize(terms)

    keys = jax.random.split(jax.random.key(8), (num_seeds, len(x)))
    rows = jnp.broadcast_to(x, (num_seeds, *x.shape))
    found = jax.jit(lambda keys, x: jax.lax.map(lambda row: jax.vmap(one)(*row), (keys, x)))
    return jax.tree.map(np.asarray, found(keys, rows))


def _log_normal(generative, loc, scale, x):
    """log p(x), where p(z) = N(loc, diag(scale)^2), in float64."""
    loadings, noise = generative.weights * scale, np.exp(2 * generative.log_scale)
    covariance = loadings @ loadings.T + noise * np.eye(len(loadings))
    mean = generative.bias + generative.weights @ loc
    return stats.multivariate_normal(mean, covariance).logpdf(x)


@functools.cache
def _truth(which):
    """log p(x): closed form in float64, or quadrature with an error below 1e-4."""
    if which != "two_layers":
        _, params, x = _problem(which)
        generative, prior = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64),
            (linear_gaussian.of(params), params["generative"]["prior"]),
        )
        size = generative.weights.shape[1]
        if which == "linear":
            prior = {"logits": np.zeros(1)} | {k: np.zeros((1, size)) for k in ("loc", "log_scale")}
        terms = [
            _log_normal(generative, loc, np.exp(log_scale), np.asarray(x, np.float64))
            for loc, log_scale in zip(prior["loc"], prior["log_scale"], strict=True)
        ]
        log_weights = special.log_softmax(prior["logits"])
        return special.logsumexp(np.stack(terms) + log_weights[:, None], axis=0)
    found = _results(which, "quadrature")["quadrature"]
    assert np.sqrt(found.variance.max()) < 1e-4
    return found.value


SLOW = (
    ("two_layers", "annealed"),
    ("two_layers", "importance"),
    ("linear", "smc"),
    ("linear", "annealed"),
    *(("mixture", name) for name in ("importance", "annealed", "smc", "quadrature")),
)
CASES = [
    pytest.param(which, name, marks=pytest.mark.slow if (which, name) in SLOW else ())
    for which in MODELS
    for name in ("importance", "annealed", "smc", "quadrature", "exact")
    if which != "two_layers" or name not in ("quadrature", "exact", "smc")
]


@pytest.mark.parametrize(("which", "name"), CASES)
def test_estimates_agree_with_the_truth_within_their_errors(which, name):
    """100 examples, 5 seeds: 4 standard errors for each, and for each seed's mean."""
    for result in _results(which, name).values():
        error = result.value - _truth(which)
        if name in ("exact", "quadrature"):  # float32's rounding is all the error they have
            assert np.abs(error).max() < 1e-4
            continue
        deviations = np.abs(error / np.sqrt(result.variance))
        assert deviations[result.trusted].max() < 4  # the flag says which errors hold
        mean_se = np.sqrt(result.variance.sum(axis=1)) / NUM_EXAMPLES
        assert (np.abs(error.mean(axis=1)) < 4 * mean_se).all()
        assert result.trusted.mean() > 0.9


@pytest.mark.parametrize(
    ("which", "name"), [c for c in CASES if c.values[1] not in ("quadrature", "exact")]
)
def test_the_95_percent_intervals_cover_as_they_say(which, name):
    for result in _results(which, name).values():
        ess = getattr(result.diagnostics, "ess", np.full_like(result.value, 1e9))
        kept = ess >= (100 if name == "importance" else 0)
        deviations = (result.value - _truth(which)) / np.sqrt(result.variance)
        assert 0.90 < np.mean(np.abs(deviations[kept]) < 1.96) < 0.99


@pytest.mark.parametrize("name", evidence.ESTIMATORS)
def test_contract(name):
    """Labels, problems and per-example results, for every module of the registry."""
    module = evidence.ESTIMATORS[name]
    model, params, x = _problem("discrete" if name in DISCRETE else "linear")
    config = _config(name)
    assert dataclasses.is_dataclass(config)
    assert module.problems(config, model=model, num_latents=2, num_samples=40) == []
    assert set(module.LABELS.values()) <= set(evidence.LEGAL)
    assert module.JUDGE is None or isinstance(module.JUDGE, int)
    assert module.REPORT in ("rows", "sandwich")
    assert hasattr(module, "build") != hasattr(module, "read")
    if evidence.reads_evaluation(name):
        out = module.read(_weights(model, params, x[:1], num_samples=40), num_samples=40)
        shape = (1, 1)
    else:
        estimator = module.build(config, model=model)
        assert estimator.rows >= 1
        assert estimator.work >= 1
        out = jax.eval_shape(
            lambda key, x: estimator.estimate(
                params, key, x, estimator.pilot(params, key, x[None])
            ),
            jax.random.key(0),
            x[0],
        )
        shape = ()
    assert set(out) == set(module.LABELS)
    for result in out.values():
        assert isinstance(result, Evidence)
        assert result.value.shape == result.variance.shape == result.trusted.shape == shape
        assert callable(result.diagnostics.watched)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in evidence.ESTIMATORS if not evidence.reads_evaluation(n)]
)
def test_float64_models_have_float64_estimates(name, x64):
    """Shapes alone: what is carried from step to step keeps its type as well."""
    which = evidence_models.discrete if name in DISCRETE else evidence_models.linear
    model, params = which()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    estimator = evidence.ESTIMATORS[name].build(_config(name), model=model)

    def run(key, x):
        return estimator.estimate(params, key, x, estimator.pilot(params, key, x[None]))

    x = jnp.zeros(
        evidence_models.simulate(params, jax.random.key(0), model=model, count=1)[0].shape
    )
    for result in jax.eval_shape(run, jax.random.key(0), x).values():
        assert result.value.dtype == result.variance.dtype == jnp.float64


def test_only_one_estimate_of_each_rank_may_stand_for_log_p():
    ranks = [module.JUDGE for module in evidence.ESTIMATORS.values() if module.JUDGE is not None]
    assert len(set(ranks)) == len(ranks)
    assert evidence.by_trust() == [
        "exact",
        "enumeration",
        "quadrature",
        "annealed",
        "gibbs",
        "smc",
        "importance",
    ]


def test_problems_say_what_to_use_instead():
    model, *_ = _problem("two_layers")
    ask = lambda name, size, count: evidence.ESTIMATORS[name].problems(
        _config(name), model=model, num_latents=size, num_samples=count
    )
    assert "at most 3 latents, this model has 50" in ask("quadrature", 50, 10)[0]
    assert "no closed-form" in ask("exact", 2, 10)[0]
    assert "num_samples >= 2, got 1" in ask("importance", 2, 1)[0]


def test_every_estimator_has_its_budget():
    settings = budgets.Evidence()
    for name, module in evidence.ESTIMATORS.items():
        assert isinstance(getattr(settings, name), module.Config)
    assert hash(settings) == hash(budgets.Evidence())


def test_what_was_watched_is_summed_and_averaged():
    diagnostics = evidence.ESTIMATORS["annealed"].Diagnostics(
        ess=np.array([2.0, 4.0]),
        acceptance=np.array([[0.5, 0.7], [0.7, 0.9]]),
        divergent_moves=np.array([0, 3]),
        broken_chains=np.array([1, 1]),
    )
    expected = Watched(
        {"divergent_moves": 3, "broken_chains": 2}, {"ess": 3.0, "acceptance": [0.6, 0.8]}
    )
    assert diagnostics.watched().counts == expected.counts
    assert diagnostics.watched().numbers["ess"] == expected.numbers["ess"]
    np.testing.assert_allclose(diagnostics.watched().numbers["acceptance"], [0.6, 0.8])


def _bidirectional_truth(params, key, model):
    """log p of the x that `bidirectional` simulates from `key`."""
    _, x = latents.simulate(params, jax.random.split(key, 4)[0], model=model)
    return model.log_marginal(params, x)


@pytest.mark.slow
def test_bidirectional_bounds_hold_the_truth_between_them():
    model, params, x = _problem("linear")
    config = _config("bidirectional", num_temperatures=3, num_chains=8)
    estimator = bidirectional.build(config, model=model)
    pilot_key, key = jax.random.split(jax.random.key(0))
    tuning = jax.jit(estimator.pilot)(params, pilot_key, x[:4])
    keys = jax.random.split(key, 400)
    out = jax.jit(jax.vmap(lambda key: estimator.estimate(params, key, x[0], tuning)))(keys)
    truth = jax.vmap(lambda key: _bidirectional_truth(params, key, model))(keys)
    below, above = out["lower"].value - truth, out["upper"].value - truth
    error = lambda values: np.std(values) / np.sqrt(400)
    assert np.mean(below) < 2 * error(below)
    assert np.mean(above) > -2 * error(above)
    assert 0 < np.mean(above - below) < 0.1
    inverse = np.exp(-np.asarray(above, np.float64))
    assert abs(inverse.mean() - 1) < 4 * error(inverse)


def _toy_path():
    """A one-dimensional normal posterior, from the prior, and its log p(x)."""
    model, params = evidence_models.linear(num_latents=1, size=4)
    generative = linear_gaussian.of(params)._replace(weights=jnp.full((4, 1), 0.8))
    params["generative"] = linear_gaussian.generative_params(generative)
    x = jnp.full(4, 0.3)
    path = annealing.make_path(params, jax.random.key(9), x, model=model, start="prior")
    path = path._replace(base_variance=jnp.ones(1), target_variance=jnp.ones(1))
    return path, model.log_marginal(params, x)


NUM_RUNS, NUM_CHAINS, NUM_TEMPERATURES, FIRST_STEP = 2000, 64, 20, 2.0


def _deviation_of_mean_weight(log_weights, log_marginal):
    """(E[w]/p(x) - 1) in standard errors over the runs; a run's weight averages its chains."""
    weights = np.exp(np.asarray(log_weights, np.float64) - float(log_marginal)).mean(axis=1)
    return (weights.mean() - 1) / (weights.std(ddof=1) / np.sqrt(len(weights)))


def test_annealed_weights_are_unbiased():
    path, log_marginal = _toy_path()
    b = annealing.spacing("linear", NUM_TEMPERATURES)
    schedule = annealing.Schedule(b, jnp.full(NUM_TEMPERATURES, FIRST_STEP))
    keys = jax.random.split(jax.random.key(1), (NUM_RUNS, NUM_CHAINS))
    run = lambda key: annealing.forward(key, path, schedule, num_leapfrog=1).log_weight
    log_weights = jax.jit(jax.vmap(jax.vmap(run)))(keys)
    assert abs(_deviation_of_mean_weight(log_weights, log_marginal)) < 3


def test_adapting_the_step_size_inside_the_run_would_be_noticed():
    """The same chain with its step driven by its own acceptance: about 2% too high."""
    path, log_marginal = _toy_path()
    b = annealing.spacing("linear", NUM_TEMPERATURES)

    def run(key):
        def body(carry, step):
            z, log_weight, step_size = carry
            index, before, temperature = step
            log_base, log_target = path.log_densities(z)
            log_weight += (temperature - before) * (log_target - log_base)
            state = hmc.init(z, lambda z: annealing.log_density(path, z, temperature))
            state, info = annealing.move(
                jax.random.fold_in(key, index), state, path, temperature, step_size, num_leapfrog=1
            )
            step_size *= jnp.where(info.is_accepted, 1.3, 0.3)
            return (state.position, log_weight, step_size), None

        start = (path.sample(key), jnp.zeros(()), jnp.asarray(FIRST_STEP))
        steps = (jnp.arange(NUM_TEMPERATURES), b[:-1], b[1:])
        return jax.lax.scan(body, start, steps)[0][1]

    keys = jax.random.split(jax.random.key(1), (NUM_RUNS, NUM_CHAINS))
    log_weights = jax.jit(jax.vmap(jax.vmap(run)))(keys)
    assert _deviation_of_mean_weight(log_weights, log_marginal) > 3


def test_spacings_rise_from_zero_to_one():
    for kind in ("linear", "sigmoid"):
        b = annealing.spacing(kind, 50)
        assert (b[0], b[-1]) == (0, 1)
        assert (np.diff(b) > 0).all()
    grid = jnp.linspace(0, 1, 11)
    b = annealing.equal_work(grid, 1.0 / (0.1 + grid), num_temperatures=50)
    assert (b[0], b[-1]) == (0, 1)
    assert (np.diff(b) > 0).all()
    assert np.diff(b)[0] < 0.3 * np.diff(b)[-1]


def test_jackknife_is_its_definition_and_less_biased():
    log_weights = np.random.default_rng(0).normal(size=(4000, 20)) - 50.0
    log_weights[0, 3] = 200.0
    values, variances = jax.vmap(weights.jackknife)(jnp.asarray(log_weights))
    mean_exp = lambda w: np.logaddexp.reduce(w) - np.log(len(w))
    for row in (0, 1):
        own = log_weights[row]
        without = [mean_exp(np.delete(own, i)) for i in range(20)]
        expected = 20 * mean_exp(own) - 19 * np.mean(without)
        np.testing.assert_allclose(values[row], expected, rtol=1e-5)
        np.testing.assert_allclose(variances[row], 19 * np.var(without), rtol=1e-3)
    truth = -50.0 + 0.5
    plain = jax.vmap(bounds.iwae)(jnp.asarray(log_weights[1:]))
    assert abs(np.mean(values[1:]) - truth) < 0.3 * abs(np.mean(plain) - truth)


@pytest.mark.parametrize(("size", "factor"), [(4, 1.0), (5, 4 / 2), (16, 15 / 13)])
def test_error_of_few_chains_by_its_definition(size, factor):
    """s^2 / (C mean^2) of the weights, and the variance of Student's t with C - 1 degrees."""
    log_weights = np.random.default_rng(size).normal(size=size)
    own = np.exp(log_weights)
    expected = factor * own.var(ddof=1) / (size * own.mean() ** 2)
    mean_weight_variance = evidence.ESTIMATORS["annealed"].mean_weight_variance
    np.testing.assert_allclose(mean_weight_variance(jnp.asarray(log_weights)), expected, rtol=1e-4)


def test_sample_j_has_its_own_key_whatever_the_chunk():
    """Sample j of an example comes from fold_in(key, j), whatever the chunk."""
    model, params, x = _problem("linear")
    key = jax.random.key(5)
    terms = importance.chunked_log_terms(
        params, key, x[0], model=model, num_samples=7, chunk_size=3
    )
    log_weights = importance.log_weights(terms)
    term = lambda j: importance.log_weights(
        importance.log_terms(params, jax.random.fold_in(key, j), x[0], model=model)
    )
    np.testing.assert_allclose(log_weights, [term(j) for j in range(7)], rtol=1e-5)


def test_a_broken_chain_is_counted_and_weighs_nothing():
    chains = annealing.Chain(
        jnp.asarray([0.0, 0.0, jnp.nan, 0.0]), jnp.ones((4, 3)), jnp.asarray([0, 2, 3, 0])
    )
    lower = evidence.ESTIMATORS["annealed"].summarize(chains)
    np.testing.assert_allclose(lower.value, np.log(3 / 4), rtol=1e-6)
    assert lower.diagnostics.broken_chains == 1
    assert lower.diagnostics.divergent_moves == 5
    assert not lower.trusted


def test_k_hat_flags_the_threshold_and_unknown_k():
    model, params, x = _problem("linear")
    read = evidence.ESTIMATORS["importance"].read
    for size, bad in ((2000, False), (20, True)):
        found = _weights(model, params, x[:1], num_samples=size)
        watched = read(found, num_samples=size)["importance"].diagnostics
        assert bool(watched.pareto_k_bad.all()) == bad
    assert pareto.threshold(2000) < 0.7


def test_low_ess_and_heavy_tails_are_not_trusted():
    row = np.zeros(4)
    found = Weights(
        {"iwae_5000": row, "jackknife": row},
        {"iwae_5000": row, "jackknife": row},
        np.array([99.0, 101.0, 500.0, 500.0]),
        np.array([0.1, 0.1, 0.71, np.nan]),
    )
    both = evidence.ESTIMATORS["importance"].read(found, num_samples=5000)
    for result in both.values():
        assert result.trusted.tolist() == [False, True, False, False]
