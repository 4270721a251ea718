"""Discrete latents against sums over all their states: masses, log p(x), and every gradient."""

import functools
import itertools

import discrete_models as small
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import weighted_draws
from conftest import model_config
from jax.flatten_util import ravel_pytree

from vaejax.errors import UserError
from vaejax.evidence import estimators as evidence
from vaejax.evidence import gaps
from vaejax.evidence.estimators import enumeration
from vaejax.models import latent_variable, latents, maps, posteriors, supports
from vaejax.objectives import bounds, gradients, phi_weights, requirements, surrogates
from vaejax.objectives.surrogates import Target
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
UNBIASED = ("reinforce", "vimco", "ovis")


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
@pytest.mark.parametrize("name", small.MODELS)
def test_masses_sum_to_one_and_belong_to_their_samples(name):
    model, params = small.case(name)
    states = small.states(params, model)
    unravel = latents.unraveller(params, model=model)[1]
    for side in (lambda: model.prior(params), lambda: model.posterior(params, small.X)):
        log_prob = jax.jit(jax.vmap(lambda z, side=side: side().log_prob(unravel(z))))
        mass = jnp.exp(log_prob(states))
        np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-12)
        draw = jax.jit(jax.vmap(lambda key, side=side: ravel_pytree(side().sample(key))[0]))
        drawn = draw(jax.random.split(jax.random.key(1), small.NUM_DRAWS))
        found = (drawn[:, None] == states[None]).all(axis=2)
        assert found.sum(axis=1).min() == 1
        error = np.sqrt(mass * (1 - mass) / small.NUM_DRAWS)
        np.testing.assert_array_less(abs(found.mean(axis=0) - mass), 4.5 * error)


def test_log_marginal_of_a_belief_network_is_that_of_its_definition():
    """p(z_2) p(z_1|z_2) p(x|z_1) by hand, from the parameters, summed with itertools."""
    model, params = small.case("sbn-2")
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
        joint[z1, z2] = above * mass(network(0, np.array(z1)), small.X)
    total = sum(joint.values())
    estimate = enumeration.build(enumeration.Config(chunk_size=3), model=model).estimate
    found = jax.jit(lambda p: estimate(p, jax.random.key(0), small.X, ()))(params)["enumeration"]
    np.testing.assert_allclose(found.value, np.log(total), rtol=1e-12)
    share = np.array(list(joint.values())) / total
    entropy = -np.sum(share * np.log(share))
    np.testing.assert_allclose(found.diagnostics.effective_states, np.exp(entropy), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", small.MODELS)
def test_bounds_lie_below_the_enumerated_log_marginal(name):
    """And p(x) sums to one over all x."""
    model, params = small.case(name)
    exact = jax.jit(lambda x: jax.nn.logsumexp(small.log_terms(params, model, x)[0]))
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=3)))
    np.testing.assert_allclose(sum(np.exp(exact(x)) for x in every), 1.0, rtol=1e-10)
    two = small.expected_bound(bounds.iwae, model)(params)
    assert small.expected_bound(bounds.elbo, model)(params) < two < exact(small.X)


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
    model, params = small.case("sbn-1")
    unravel = latents.unraveller(params, model=model)[1]
    log_p = jax.vmap(lambda z: model.prior(params).log_prob(unravel(z)))(
        small.states(params, model)
    )
    _, log_q = small.log_terms(params, model)
    kl = jnp.sum(jnp.exp(log_q) * (log_q - log_p))
    assert model.kl_groups(params, small.X).shape == (3,)
    np.testing.assert_allclose(model.kl_groups(params, small.X).sum(), kl, rtol=1e-10)
    assert small.case("categorical")[0].kl_groups is None


@pytest.mark.slow
@pytest.mark.parametrize("name", small.MODELS)
def test_estimators_without_a_path_have_the_enumerated_gradient(name):
    """Every coordinate of theta and phi within 4.5 errors (of some 7,000 in all); what is unsound
    outside of 6."""
    model, params = small.case(name)
    drawn = weighted_draws.draw(
        params,
        small.KEYS,
        small.X,
        model=model,
        num_samples=2,
        beta=0.7,
        path=False,
    )
    exact_of = small.expected_gradients(params, model, beta=0.7)
    for bound in bounds.BOUNDS:
        if bound == "miwae":  # of two samples it is the elbo
            continue
        exact = small.flat(exact_of(bounds.FUNCTIONS[bound]))
        for estimator in UNBIASED:
            found = weighted_draws.gradient(drawn, estimator, bound)
            own = {name: weighted_draws.flat(part) for name, part in found.items()}
            off = np.abs(small.errors(own["inference"], exact["inference"])).max()
            if gradients.bias(gradients.parse(estimator), bounds.parse(bound)) is None:
                assert off < 4.5, (bound, estimator, off)
            elif bound == "elbo":  # for the others its bias is smaller than this many draws tell
                assert off > 6.0, (bound, estimator, off)
            if name != "top_down":
                assert np.abs(small.errors(own["generative"], exact["generative"])).max() < 4.5


@pytest.mark.slow
def test_gradients_of_single_weights_add_up_to_what_an_estimator_gives():
    model, params = small.case("sbn-2")
    (itself,) = small.draws(
        params, model, [small.surrogate("vimco")], Target(bounds.iwae, 2, beta=0.7), 30
    )
    options = {"model": model, "num_samples": 2, "beta": 0.7, "path": False}
    drawn = weighted_draws.draw(params, jax.random.split(jax.random.key(3), 30), small.X, **options)
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
    model, params = small.case("sbn-2")
    target = Target(bounds.iwae, 2)
    exact = small.flat(jax.jit(jax.grad(small.expected_bound(bounds.iwae, model)))(params))
    broken = [
        functools.partial(surrogates.weighted, weights=weights)
        for weights in (_without_its_own_term, _baseline_of_all)
    ]
    broken.append(small.surrogate("pathwise"))
    for own in small.draws(params, model, broken, target):
        assert np.abs(small.errors(own["inference"], exact["inference"])).max() > 6.0
        assert np.abs(small.errors(own["generative"], exact["generative"])).max() < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("name", small.MODELS)
def test_wake_and_sleep_have_their_enumerated_gradients(name):
    model, params = small.case(name)
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=3)))
    weights, mass, _ = small.pairs(params, model)
    shares = jax.nn.softmax(weights, axis=-1)

    def wake(params):
        """E[sum_i w~_i log q(z_i|x)] with samples and weights held still: both i are alike."""
        return 2.0 * jnp.sum(mass * shares[..., 0] * small.log_terms(params, model)[1][:, None])

    def sleep(ours):
        def of(x):
            log_joint, _ = small.log_terms(params, model, x)
            return jnp.sum(jnp.exp(log_joint) * small.log_terms(ours, model, x)[1])

        return jnp.sum(jax.vmap(of)(every))

    target = Target(bounds.iwae, 2)
    draws = small.draws(
        params,
        model,
        [small.surrogate("wake_phi"), small.surrogate("sleep_phi")],
        target,
    )
    for own, expected in zip(draws, (wake, sleep), strict=True):
        exact = small.flat(jax.jit(jax.grad(expected))(params))
        assert np.abs(small.errors(own["inference"], exact["inference"])).max() < 4.5


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
    model, _ = small.case("sbn-1")
    for name, record in gradients.GRADIENTS.items():
        found = requirements.problems(gradients.parse(name), model)
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
            small.BINARY
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
    ask = functools.partial(
        gradients.refusals, gradients.parse(estimator), bounds.parse("iwae"), None
    )
    assert "needs num_samples >= 2, got 1" in ask(num_samples=1)[0]
    assert ask(num_samples=2) == []
