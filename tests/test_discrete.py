"""Discrete latents against sums over all their states: masses, log p(x), and every gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import weighted_draws
from conftest import model_config, perturbed
from jax.flatten_util import ravel_pytree

from vaejax.errors import UserError
from vaejax.evidence import estimators as evidence
from vaejax.evidence import gaps
from vaejax.evidence.estimators import enumeration
from vaejax.models import latent_variable, latents, maps, posteriors, supports
from vaejax.objectives import bounds, gradients, importance, phi_weights, requirements
from vaejax.objectives.gradients import Target
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
X = jnp.array([1.0, 0.0, 1.0])
NUM_DRAWS = 20_000
BINARY = {"posterior": "bernoulli", "prior": "bernoulli"}
MODELS = {
    "sbn-1": BINARY | {"latent_dims": (3,)},
    "sbn-2": BINARY | {"latent_dims": (2, 2)},
    "sbn-3": BINARY | {"latent_dims": (2, 1, 1)},
    "autoregressive": {
        "posterior": "bernoulli",
        "prior": "autoregressive_bernoulli(hidden_dims=(3,))",
        "latent_dims": (3,),
    },
    "categorical": {
        "posterior": "categorical(num_classes=3)",
        "prior": "categorical(num_classes=3)",
        "latent_dims": (6,),
    },
    "categorical-2": {
        "posterior": "categorical(num_classes=2)",
        "prior": "categorical(num_classes=2)",
        "latent_dims": (4, 2),
    },
    "top_down": BINARY | {"latent_dims": (2, 2), "hierarchy": "top_down(features=2)"},
}
UNBIASED = ("reinforce", "vimco", "ovis")
KEYS = jax.random.split(jax.random.key(3), NUM_DRAWS)


@functools.cache
def _case(name):
    """A model whose q is well off its posterior."""
    config = model_config(encoder="mlp(hidden_dims=(2,))", **MODELS[name])
    assert latent_variable.problems(config) == []
    model = latent_variable.build(config, DataSpec((3,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.6)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def _states(params, model):
    """Every z, flat [S, Z]."""
    size, _ = latents.unraveller(params, model=model)
    count = supports.num_states(model.support, size)
    return jax.vmap(lambda n: supports.state(model.support, size, n))(jnp.arange(count))


def _log_terms(params, model, x=X):
    """log p(x, z) and log q(z|x) of every state, [S] each."""
    unravel = latents.unraveller(params, model=model)[1]

    def one(z):
        terms = importance.log_terms_at(params, x, unravel(z), model=model)
        return terms.log_likelihood + terms.log_prior, terms.log_posterior

    return jax.vmap(one)(_states(params, model))


def _pairs(params, model):
    """Of each pair of states the log weights [S S 2] and the mass under q [S S]."""
    log_joint, log_q = _log_terms(params, model)
    weights = log_joint - log_q
    both = jnp.stack(jnp.meshgrid(weights, weights, indexing="ij"), axis=-1)
    return both, jnp.exp(log_q[:, None] + log_q[None, :]), log_q


def _expected_bound(bound, model, beta=1.0):
    """params -> E[bound(log w_1, log w_2)], a sum over all pairs of states."""

    def expected(params):
        weights, log_q = _tempered(params, model, beta)
        return _mean_over_pairs(bound, weights, log_q)

    return expected


def _tempered(params, model, beta):
    """Log weights and log q of every state, [S] each."""
    log_joint, log_q = _log_terms(params, model)
    log_likelihood = _likelihoods(params, model)
    return log_likelihood + beta * (log_joint - log_likelihood - log_q), log_q


def _mean_over_pairs(bound, weights, log_q):
    pairs = jnp.stack(jnp.meshgrid(weights, weights, indexing="ij"), axis=-1)
    mass = jnp.exp(log_q[:, None] + log_q[None, :])
    return jnp.sum(mass * jax.vmap(jax.vmap(bound))(pairs))


def _expected_gradients(params, model, beta):
    """bound -> the gradient of `_expected_bound`; the model is differentiated once for all."""
    states, jacobian = jax.jit(
        lambda p: (_tempered(p, model, beta), jax.jacrev(lambda p: _tempered(p, model, beta))(p))
    )(params)

    def exact(bound):
        outer = jax.jit(jax.grad(functools.partial(_mean_over_pairs, bound), (0, 1)))(*states)
        both = zip(outer, jacobian, strict=True)
        parts = [jax.tree.map(lambda leaf, o=o: jnp.tensordot(o, leaf, 1), j) for o, j in both]
        return jax.tree.map(jnp.add, *parts)

    return exact


def _likelihoods(params, model):
    unravel = latents.unraveller(params, model=model)[1]
    return jax.vmap(lambda z: model.likelihood(params, unravel(z)).log_prob(X))(
        _states(params, model)
    )


def _draws(params, model, surrogates, target, num_draws=NUM_DRAWS):
    """Gradients of each surrogate on common keys, flat: one [draws, J] for each."""

    def gradient(key, surrogate):
        grad = jax.grad(lambda p: surrogate(p, key, X, model=model, target=target)[0])
        return {name: ravel_pytree(part)[0] for name, part in grad(params).items()}

    every = lambda key: [gradient(key, each) for each in surrogates]
    return jax.jit(jax.vmap(every))(jax.random.split(jax.random.key(3), num_draws))


def _errors(draws, exact):
    """(mean - exact) / standard error of every coordinate of one group."""
    draws = np.asarray(draws)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    return (draws.mean(axis=0) - np.asarray(exact)) / np.maximum(error, 1e-9)


def _flat(params):
    return {name: ravel_pytree(part)[0] for name, part in params.items()}


def _surrogate(name):
    return gradients.GRADIENTS[name].surrogate


@pytest.mark.slow
@pytest.mark.parametrize("support", [supports.BINARY, supports.one_of(3)])
def test_states_are_all_that_there_are(support):
    count = supports.num_states(support, 6)
    every = jax.vmap(lambda n: supports.state(support, 6, n))(jnp.arange(count))
    assert count == (64 if support == supports.BINARY else 9)
    assert len({tuple(map(float, z)) for z in every}) == count
    assert set(np.unique(every)) == {0.0, 1.0}
    if support != supports.BINARY:
        np.testing.assert_array_equal(every.reshape(count, 2, 3).sum(axis=2), 1.0)
    noisy = every + 0.3 * jax.random.uniform(jax.random.key(0), every.shape)
    np.testing.assert_array_equal(jax.vmap(lambda z: supports.nearest(support, z))(noisy), every)
    put = lambda value: jax.vmap(
        lambda z: supports.with_unit(support, z, jnp.asarray(1), jnp.asarray(value))
    )
    one, none = put(1.0)(every), put(0.0)(every)
    assert (one[:, 1] == 1.0).all()
    assert (none[:, 1] == 0.0).all()
    known = {tuple(map(float, z)) for z in every}
    assert {tuple(map(float, z)) for z in np.concatenate([one, none])} <= known
    with pytest.raises(ValueError, match="cannot be counted"):
        supports.num_states(supports.REAL, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_masses_sum_to_one_and_belong_to_their_samples(name):
    model, params = _case(name)
    states = _states(params, model)
    unravel = latents.unraveller(params, model=model)[1]
    for side in (lambda: model.prior(params), lambda: model.posterior(params, X)):
        log_prob = jax.jit(jax.vmap(lambda z, side=side: side().log_prob(unravel(z))))
        mass = jnp.exp(log_prob(states))
        np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-12)
        draw = jax.jit(jax.vmap(lambda key, side=side: ravel_pytree(side().sample(key))[0]))
        drawn = draw(jax.random.split(jax.random.key(1), NUM_DRAWS))
        found = (drawn[:, None] == states[None]).all(axis=2)
        assert found.sum(axis=1).min() == 1
        error = np.sqrt(mass * (1 - mass) / NUM_DRAWS)
        np.testing.assert_array_less(abs(found.mean(axis=0) - mass), 4.5 * error)


def test_log_marginal_of_a_belief_network_is_that_of_its_definition():
    """p(z_2) p(z_1|z_2) p(x|z_1) by hand, from the parameters, summed with itertools."""
    model, params = _case("sbn-2")
    theta = jax.tree.map(np.asarray, params["generative"])
    sigmoid = lambda logits: 1 / (1 + np.exp(-logits))

    def mass(logits, z):
        p = sigmoid(logits)
        return np.prod(np.where(np.asarray(z) == 1, p, 1 - p))

    def network(layer, z):
        own = theta["decoders"][layer]["params"]
        hidden = np.tanh(z @ own["Dense_0"]["kernel"] + own["Dense_0"]["bias"])
        return hidden @ own["Dense_1"]["kernel"] + own["Dense_1"]["bias"]

    joint = {}
    for z2, z1 in itertools.product(itertools.product((0.0, 1.0), repeat=2), repeat=2):
        above = mass(theta["prior"]["logits"], z2) * mass(network(1, np.array(z2)), z1)
        joint[z1, z2] = above * mass(network(0, np.array(z1)), X)
    total = sum(joint.values())
    estimate = enumeration.build(enumeration.Config(chunk_size=3), model=model).estimate
    found = jax.jit(lambda p: estimate(p, jax.random.key(0), X, ()))(params)["enumeration"]
    np.testing.assert_allclose(found.value, np.log(total), rtol=1e-12)
    share = np.array(list(joint.values())) / total
    entropy = -np.sum(share * np.log(share))
    np.testing.assert_allclose(found.diagnostics.effective_states, np.exp(entropy), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bounds_lie_below_the_enumerated_log_marginal(name):
    """And p(x) sums to one over all x."""
    model, params = _case(name)
    exact = jax.jit(lambda x: jax.nn.logsumexp(_log_terms(params, model, x)[0]))
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=3)))
    np.testing.assert_allclose(sum(np.exp(exact(x)) for x in every), 1.0, rtol=1e-10)
    two = _expected_bound(bounds.iwae, model)(params)
    assert _expected_bound(bounds.elbo, model)(params) < two < exact(X)


@pytest.mark.slow
def test_one_hot_and_bernoulli_masses_are_numpyros():
    logits = jax.random.normal(jax.random.key(0), (6,))
    z = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    ours = posteriors.categorical(6, num_classes=3).distribution({}, logits)
    theirs = dist.CategoricalLogits(logits.reshape(2, 3)).to_event(1)
    np.testing.assert_allclose(ours.log_prob(z), theirs.log_prob(jnp.array([1, 2])), rtol=1e-10)
    np.testing.assert_allclose(ours.mean, theirs.base_dist.probs.reshape(-1), rtol=1e-10)
    ours = posteriors.bernoulli(6).distribution({}, logits)
    theirs = dist.BernoulliLogits(logits).to_event(1)
    np.testing.assert_allclose(ours.log_prob(z), theirs.log_prob(z), rtol=1e-10)


@pytest.mark.slow
def test_closed_form_kl_is_the_sum_over_states():
    model, params = _case("sbn-1")
    unravel = latents.unraveller(params, model=model)[1]
    log_p = jax.vmap(lambda z: model.prior(params).log_prob(unravel(z)))(_states(params, model))
    _, log_q = _log_terms(params, model)
    kl = jnp.sum(jnp.exp(log_q) * (log_q - log_p))
    assert model.kl_groups(params, X).shape == (3,)
    np.testing.assert_allclose(model.kl_groups(params, X).sum(), kl, rtol=1e-10)
    assert _case("categorical")[0].kl_groups is None


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_estimators_without_a_path_have_the_enumerated_gradient(name):
    """Every coordinate of theta and phi within 4.5 errors (of some 7,000 in all); what is unsound
    outside of 6."""
    model, params = _case(name)
    drawn = weighted_draws.draw(params, KEYS, X, model=model, num_samples=2, beta=0.7, path=False)
    exact_of = _expected_gradients(params, model, beta=0.7)
    for bound in bounds.BOUNDS:
        if bound == "miwae":  # of two samples it is the elbo
            continue
        exact = _flat(exact_of(bounds.FUNCTIONS[bound]))
        for estimator in UNBIASED:
            found = weighted_draws.gradient(drawn, estimator, bound)
            own = {name: weighted_draws.flat(part) for name, part in found.items()}
            off = np.abs(_errors(own["inference"], exact["inference"])).max()
            if gradients.bias(estimator, bounds.parse(bound)) is None:
                assert off < 4.5, (bound, estimator, off)
            elif bound == "elbo":  # for the others its bias is smaller than this many draws tell
                assert off > 6.0, (bound, estimator, off)
            if name != "top_down":
                assert np.abs(_errors(own["generative"], exact["generative"])).max() < 4.5


@pytest.mark.slow
def test_gradients_of_single_weights_add_up_to_what_an_estimator_gives():
    model, params = _case("sbn-2")
    (itself,) = _draws(params, model, [_surrogate("vimco")], Target(bounds.iwae, 2, beta=0.7), 30)
    options = {"model": model, "num_samples": 2, "beta": 0.7, "path": False}
    drawn = weighted_draws.draw(params, jax.random.split(jax.random.key(3), 30), X, **options)
    sums = weighted_draws.gradient(drawn, "vimco", "iwae")
    for group, expected in itself.items():
        np.testing.assert_allclose(
            weighted_draws.flat(sums[group]), expected, rtol=1e-8, atol=1e-10
        )


def _without_its_own_term(log_weights, *, bound, beta):
    """`vimco` that forgets how the bound itself depends on phi."""
    return None, phi_weights.vimco(log_weights, bound=bound, beta=0.0)[1]


def _baseline_of_all(log_weights, *, bound, beta):
    """`reinforce` whose baseline has seen the sample it is for."""
    value, c = jax.value_and_grad(bound)(log_weights)
    return None, value - jnp.mean(log_weights) - beta * c


@pytest.mark.slow
def test_broken_estimators_are_caught_and_so_is_a_path_that_is_none():
    model, params = _case("sbn-2")
    target = Target(bounds.iwae, 2)
    exact = _flat(jax.jit(jax.grad(_expected_bound(bounds.iwae, model)))(params))
    broken = [
        functools.partial(gradients.weighted, weights=weights)
        for weights in (_without_its_own_term, _baseline_of_all)
    ]
    broken.append(_surrogate("pathwise"))
    for own in _draws(params, model, broken, target):
        assert np.abs(_errors(own["inference"], exact["inference"])).max() > 6.0
        assert np.abs(_errors(own["generative"], exact["generative"])).max() < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_wake_and_sleep_have_their_enumerated_gradients(name):
    model, params = _case(name)
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=3)))
    weights, mass, _ = _pairs(params, model)
    shares = jax.nn.softmax(weights, axis=-1)

    def wake(params):
        """E[sum_i w~_i log q(z_i|x)] with samples and weights held still: both i are alike."""
        return 2.0 * jnp.sum(mass * shares[..., 0] * _log_terms(params, model)[1][:, None])

    def sleep(ours):
        def of(x):
            log_joint, _ = _log_terms(params, model, x)
            return jnp.sum(jnp.exp(log_joint) * _log_terms(ours, model, x)[1])

        return jnp.sum(jax.vmap(of)(every))

    target = Target(bounds.iwae, 2)
    draws = _draws(params, model, [_surrogate("wake_phi"), _surrogate("sleep_phi")], target)
    for own, expected in zip(draws, (wake, sleep), strict=True):
        exact = _flat(jax.jit(jax.grad(expected))(params))
        assert np.abs(_errors(own["inference"], exact["inference"])).max() < 4.5


@pytest.mark.slow
def test_vimco_is_that_of_its_paper_and_of_the_elbo_the_leave_one_out_gradient():
    log_weights = jnp.asarray(np.random.default_rng(0).normal(-90.0, 3.0, 5))
    others = np.array([np.delete(log_weights, i).mean() for i in range(5)])
    one = lambda values: np.log(np.mean(np.exp(values + 90.0))) - 90.0  # L_5
    values = np.asarray(log_weights)
    learning = [one(values) - one(np.where(np.arange(5) == i, others[i], values)) for i in range(5)]
    ours = phi_weights.vimco(log_weights, bound=bounds.iwae, beta=1.0)
    assert ours[0] is None
    np.testing.assert_allclose(ours[1], np.array(learning) - jax.nn.softmax(log_weights))
    for weights in (phi_weights.vimco, phi_weights.reinforce):
        found = weights(log_weights, bound=bounds.elbo, beta=1.0)[1]
        np.testing.assert_allclose(found, (log_weights - others) / 5 - 1 / 5, rtol=1e-9)
    ours = phi_weights.ovis(log_weights, bound=bounds.iwae, beta=1.0)[1]
    left = [np.log(np.exp(np.delete(log_weights, i)).sum() / 5) for i in range(5)]
    expected = one(values) - np.array(left) - jax.nn.softmax(log_weights)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_what_needs_a_path_is_refused_with_the_nearest_choice():
    model, _ = _case("sbn-1")
    for name, record in gradients.GRADIENTS.items():
        found = requirements.problems(name, model)
        assert bool(found) == record.needs_path
        if found:
            assert "these latents are vectors of 0 and 1, which jump; use vimco" in found[0]
    ask = lambda name, size: evidence.ESTIMATORS[name].problems(
        evidence.ESTIMATORS[name].Config(), model=model, num_latents=size, num_samples=10
    )
    for name in ("annealed", "smc", "bidirectional", "quadrature", "exact"):
        assert "enumeration" in ask(name, 3)[0] or name == "exact"
    assert ask("importance", 3) == ask("enumeration", 20) == []
    assert (
        "at most 2^20 states, the 21 latents of this model have 2^21" in ask("enumeration", 21)[0]
    )
    assert "sought among normals" in gaps.problems(model)[0]
    real = latent_variable.build(model_config(latent_dims=(2,)), DataSpec((3,), None))
    assert (
        "cannot be counted; use quadrature"
        in enumeration.problems(enumeration.Config(), model=real, num_latents=2, num_samples=2)[0]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"posterior": "bernoulli"},
            "model.prior: normal is over real vectors, model.posterior=bernoulli over vectors of 0 "
            "and 1; use model.prior=bernoulli",
        ),
        (
            {"posterior": "categorical(num_classes=5)", "prior": "categorical(num_classes=2)"},
            "use model.prior=categorical(num_classes=5)",
        ),
        ({"prior": "bernoulli"}, "use model.prior=normal"),
        (
            {"posterior": "categorical(num_classes=3)"},
            "model.posterior: categorical: num_classes: must be at least 2 and divide the latents "
            "of each layer, 50 (one choice takes num_classes of them), got 3",
        ),
        (
            {"posterior": "bernoulli", "prior": "autoregressive_bernoulli(hidden_dims=(0,))"},
            "model.prior: autoregressive_bernoulli: hidden_dims: every width",
        ),
        (
            BINARY
            | {"latent_dims": (2, 2), "hierarchy": "top_down(merge='precision')", "encoder": "mlp"},
            "merge='precision' needs posterior=normal",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_named(fields, message):
    (problem,) = latent_variable.problems(model_config(**fields))
    assert message in problem


def test_a_choice_has_no_place_on_a_map():
    with pytest.raises(UserError, match="no place on a map"):
        maps.on_grid(functools.partial(posteriors.categorical, num_classes=2), (2, 2, 2))


@pytest.mark.parametrize("estimator", UNBIASED)
def test_estimators_that_compare_samples_need_two(estimator):
    ask = functools.partial(gradients.refusals, estimator, bounds.parse("iwae"), None)
    assert "needs num_samples >= 2, got 1" in ask(num_samples=1)[0]
    assert ask(num_samples=2) == []
