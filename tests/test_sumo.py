"""SUMO against closed forms: its lengths, its expectation, and what it says of its spread."""

import functools

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.evidence.estimators import sumo
from vaejax.evidence.estimators.sumo import Config
from vaejax.objectives import bounds, gradients, importance, roulette
from vaejax.objectives.surrogates import Target

NUM_EXAMPLES = 50


@functools.cache
def _problem():
    model, params = evidence_models.linear()
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=NUM_EXAMPLES)
    exact = np.asarray(jax.jit(jax.vmap(lambda x: model.log_marginal(params, x)))(x))
    return model, params, x, exact


@pytest.mark.parametrize("config", [Config(), Config(steady=5, tail=0.5)])
def test_lengths_have_the_tail_that_is_divided_by(config):
    """And an average of `expected_samples` - 1: within 4.5 errors of 200,000 draws."""
    config = Config(200_000, config.steady, config.tail)
    draw = lambda key: roulette.lengths(key, (config.num_repeats,), sumo.rule(config))
    lengths = np.asarray(jax.jit(draw)(jax.random.key(0)))
    assert lengths.min() == 1
    for k in (2, 3, 5, 6, 20, 80, 81, 90):
        exact = float(roulette.survival(jnp.asarray(k), sumo.rule(config)))
        error = np.sqrt(exact * (1 - exact) / len(lengths))
        assert abs(np.mean(lengths >= k) - exact) < 4.5 * error + 1e-6, k
    error = lengths.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() + 1 - sumo.expected_samples(config)) < 4.5 * error


@pytest.mark.slow
def test_its_mean_is_log_p_where_a_bound_of_the_same_cost_is_visibly_below():
    """2,000 SUMOs of 50 examples each: their spread is so heavy that fewer say little."""
    model, params, x, exact = _problem()
    config = Config(2000)
    cost = round(sumo.expected_samples(config))

    @jax.jit
    @jax.vmap
    def both(key, x):
        values, lengths = sumo.draws(params, key, x, model=model, config=config)
        bound = lambda key: bounds.iwae(
            importance.sample_log_weights(params, key, x, model=model, num_samples=cost)
        )
        return values, lengths, jax.vmap(bound)(jax.random.split(key, 2000))

    keys = jax.random.split(jax.random.key(1), NUM_EXAMPLES)
    values, lengths, below = map(np.asarray, both(keys, x))
    error = np.sqrt(values.var(axis=1, ddof=1).sum() / 2000) / NUM_EXAMPLES
    assert abs(np.mean(values - exact[:, None])) < 4 * error
    assert np.mean(exact[:, None] - below) > 6 * error
    np.testing.assert_allclose(lengths.mean() + 1, sumo.expected_samples(config), rtol=0.02)


@pytest.mark.slow
def test_repeats_are_the_definition_on_their_own_samples():
    """The stream cut into repeats, by hand in float64."""
    model, params, x, _ = _problem()
    config, key = Config(num_repeats=20, steady=4, tail=0.6, chunk_size=7), jax.random.key(5)
    values, lengths = jax.jit(lambda: sumo.draws(params, key, x[0], model=model, config=config))()
    sample_key = jax.random.split(key)[1]
    numbers = jnp.arange(int(lengths.sum()) + 20)

    @jax.jit
    @jax.vmap
    def log_weights(n):
        terms = importance.log_terms(params, jax.random.fold_in(sample_key, n), x[0], model=model)
        return importance.log_weights(terms)

    stream = np.asarray(log_weights(numbers), np.float64)
    for value, length in zip(values, np.asarray(lengths), strict=True):
        own, stream = stream[: length + 1], stream[length + 1 :]
        iwae = np.logaddexp.accumulate(own) - np.log(np.arange(1, length + 2))
        tails = [0.6 ** max(k - 4, 0) / min(k, 4) for k in range(1, length + 1)]
        np.testing.assert_allclose(value, own[0] + np.sum(np.diff(iwae) / tails), rtol=2e-5)


@pytest.mark.slow
def test_a_heavy_tail_is_seen():
    """One repeat holds much of the spread, and most examples are flagged, where q is far too
    narrow; hardly any where it is not."""
    model, params, x, _ = _problem()
    narrow = jax.tree.map(jnp.copy, params)
    own = narrow["inference"]["posteriors"][0]
    own["log_diagonal"] = own["log_diagonal"] - 1.2
    run = lambda params: evidence_models.run(sumo.build(Config(400), model=model), params, x)[
        "sumo"
    ]
    light, heavy = run(params), run(narrow)
    assert np.mean(heavy.trusted) < np.mean(light.trusted)
    assert heavy.diagnostics.largest_share.mean() > 1.5 * light.diagnostics.largest_share.mean()
    assert heavy.diagnostics.pareto_k.mean() > light.diagnostics.pareto_k.mean()


@pytest.mark.parametrize(("tail", "reason"), [(1.0, "has no bound"), (0.0, "cuts every sum off")])
def test_a_tail_without_a_bound_is_refused(tail, reason):
    model, *_ = _problem()
    ask = functools.partial(sumo.problems, model=model, num_latents=2, num_samples=2)
    (problem,) = ask(Config(tail=tail))
    assert f"evidence.sumo.tail={tail:g} {reason}" in problem
    assert ask(Config()) == []


def _objective(size, *, key, rule, extra):
    """(E[gradient] draws, values) of SUMO as an objective on a linear-Gaussian model."""
    model, params, x, _ = _problem()
    surrogate = gradients.surrogate(gradients.parse(rule))
    target = Target(bounds.iwae, extra)

    def gradient(key):
        return jax.value_and_grad(lambda p: surrogate(p, key, x[0], model=model, target=target)[0])(
            params
        )

    return jax.jit(lambda keys: jax.lax.map(gradient, keys))(jax.random.split(key, size))


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 3])
def test_as_an_objective_theta_follows_the_gradient_of_log_p(first, monkeypatch):
    """And its value is log p(x): 4.5 errors of 6,000 draws, a tail that is not too heavy."""
    if first == 3:  # fewer programs to compile; the other case has all of them
        monkeypatch.setattr(roulette, "EXTRA", (8, 96))
    model, params, x, exact = _problem()
    values, found = _objective(
        6000, key=jax.random.key(3), rule="sumo(steady=20, tail=0.8)", extra=first
    )
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - exact[0]) < 4.5 * values.std() / np.sqrt(len(values))
    expected = jax.grad(lambda p: model.log_marginal(p, x[0]))(params)["generative"]
    for own, leaf in zip(
        jax.tree.leaves(found["generative"]), jax.tree.leaves(expected), strict=True
    ):
        own = np.asarray(own, np.float64)
        error = own.std(axis=0) / np.sqrt(len(own))
        assert (np.abs(own.mean(axis=0) - leaf) < 4.5 * error + 1e-6).all()


@pytest.mark.slow
def test_as_an_objective_phi_lowers_the_variance(monkeypatch):
    """Against the derivative of the mean of (A - B)^2 / 2 on common keys, by differences."""
    monkeypatch.setattr(roulette, "EXTRA", (2, 32))
    model, params, x, _ = _problem()
    rule = roulette.Tail(6, 0.5)

    def pair(params, key):
        own, common = jax.random.split(key)
        lengths = [roulette.lengths(k, (), rule) for k in jax.random.split(common)]

        def one(key, length):
            draw = lambda n: importance.log_terms(
                params, jax.random.fold_in(key, n), x[0], model=model
            )
            terms = jax.vmap(draw)(jnp.arange(1 + 64))
            return roulette.estimate(importance.log_weights(terms), length, rule, first=1)

        return [one(*each) for each in zip(jax.random.split(own), lengths, strict=True)]

    surrogate = gradients.surrogate(gradients.parse("sumo(steady=6, tail=0.5)"))

    def ours(key):
        own, common = jax.random.split(key)
        target = Target(bounds.iwae, 1, common_key=common)
        value = lambda p: surrogate(p, own, x[0], model=model, target=target)[0]
        return jax.grad(value)(params)["inference"]

    def theirs(key):
        def minus(params):
            both = pair(params, key)
            return -0.5 * (both[0] - both[1]) ** 2

        return jax.grad(minus)(params)["inference"]

    keys = jax.random.split(jax.random.key(8), 20)
    for left, right in zip(
        jax.tree.leaves(jax.jit(lambda k: jax.lax.map(ours, k))(keys)),
        jax.tree.leaves(jax.jit(lambda k: jax.lax.map(theirs, k))(keys)),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-4)


def test_a_sum_is_its_definition_and_uses_no_weight_beyond_its_length():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(-90.0, 2.0, 12)
    rule, first, length = roulette.Tail(3, 0.6), 2, 5
    one = lambda k: np.logaddexp.reduce(log_weights[:k]) - np.log(k)
    expected = one(first)
    for j in range(1, length + 1):
        survival = 1 / j if j <= 3 else 0.6 ** (j - 3) / 3
        expected += (one(first + j) - one(first + j - 1)) / survival
    both = (log_weights, np.where(np.arange(12) < first + length, log_weights, 0.0))
    for given in both:
        found = roulette.estimate(jnp.asarray(given), jnp.asarray(length), rule, first=first)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sumo(tail=1.0)", "tail: 1 has no bound on the expected number of samples"),
        ("sumo(tail=0.0)", "tail: 0 cuts every sum off"),
        ("sumo(tail=0.99)", "a sum may take 1,"),
        ("sumo(steady=0)", "steady: must be at least 1, got 0"),
    ],
)
def test_rules_without_an_end_are_refused(text, message):
    ask = functools.partial(gradients.refusals, gradients.parse(text), num_samples=1)
    (problem,) = ask(bounds.parse("iwae"), None)
    assert message in problem
    good = gradients.parse("sumo")
    assert gradients.refusals(good, bounds.parse("iwae"), None, num_samples=1) == []
    (problem,) = gradients.refusals(good, bounds.parse("elbo"), None, num_samples=1)
    assert "set objective.bound=iwae" in problem
