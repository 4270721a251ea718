"""A top-down model whose log p(x) is exact, and gradients of parameters that p and q share.

A linear-Gaussian top-down model is jointly normal: its log p(x) and posterior are exact.
"""

import functools

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weighted_draws
from conftest import model_config, perturbed, small_config
from jax.flatten_util import ravel_pytree
from scipy import stats

from vaejax.data import splits
from vaejax.evidence import estimators as evidence
from vaejax.models import latent_variable, top_down
from vaejax.objectives import bounds, gradients, importance, surrogates
from vaejax.objectives.surrogates import Target
from vaejax.training import step as training
from vaejax.types import DataSpec

SPEC = DataSpec((3,), None)


def _built(**fields):
    return latent_variable.build(model_config(**fields), SPEC)


def _moved(model, seed, scale):
    """Parameters that are not special, in the precision of the test."""
    keys = jax.random.split(jax.random.key(seed))
    params = jax.jit(lambda: perturbed(model.init(keys[0]), keys[1], scale))()
    return jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(()).dtype), params)


def _linear_gaussian(latent_dims=(1, 1), features=2):
    model = _built(
        latent_dims=latent_dims,
        encoder="linear",
        likelihood="normal",
        posterior="normal(shared_scale=True)",
        hierarchy=f"top_down(features={features})",
    )
    params = _moved(model, 3, 0.3)
    # p(z_1|z_2) of a linear model is normal with a mean linear in z_2: its scale must be fixed.
    for head in params["generative"]["heads"]:
        head["gain"] = jnp.ones_like(head["gain"])
        dense = head["network"]["params"]["Dense_0"]
        dense["kernel"] = dense["kernel"].at[:, latent_dims[0] :].set(0.0)
    return model, params


def _joint(model, params):
    """Mean and covariance of (z_1, z_2, x): affine in the noises, read off by differentiation."""
    prior = model.prior(params)

    def values(noise):
        e2, e1, ex = jnp.split(noise, (1, 2))
        z2 = prior.first.base_dist.loc + prior.first.base_dist.scale * e2
        _, below = prior.following[0](None, z2)
        z1 = below.base_dist.loc + below.base_dist.scale * e1
        likelihood = model.likelihood(params, (z1, z2)).flat
        return jnp.concatenate([z1, z2, likelihood.loc + likelihood.scale * ex])

    @jax.jit
    def moments(zero):
        factor = jax.jacobian(values)(zero)
        return values(zero), factor @ factor.T

    return tuple(np.asarray(moment, np.float64) for moment in moments(jnp.zeros(5)))


def _with_exact_posterior(params, joint):
    """phi with which q(z_2|x) q(z_1|x, z_2) is the posterior."""
    mean, covariance = joint

    def regress(own, given):
        """Slope, intercept and scale of one value given others."""
        slope = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given, own])
        variance = covariance[own, own] - slope @ covariance[given, own]
        return slope, mean[own] - slope @ mean[given], np.sqrt(variance)

    theta, x_at = params["generative"], [2, 3, 4]
    path = theta["decoders"][1]["params"]["Dense_0"]  # h_1 = kernel' z_2 + bias
    kernel, bias = np.asarray(path["kernel"][0]), np.asarray(path["bias"])
    (top_slope, top, top_scale), (slope, low, low_scale) = regress(1, x_at), regress(0, [*x_at, 1])
    from_x = np.stack([slope[:3], top_slope], axis=1)  # d_1 = both linear functions of x
    to_h = slope[3] * kernel / (kernel @ kernel)
    dense = lambda kernel, bias: {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}
    head = dense(np.array([[1.0], [0.0], *to_h[:, None]]), np.array([low - to_h @ bias]))
    phi = {
        "encoders": [
            dense(from_x, np.zeros(2)),
            {"network": dense(np.array([[0.0], [1.0]]), np.array([top])), "gain": np.ones(())},
        ],
        "heads": [{"network": head, "gain": np.ones(())}],
        "posteriors": [
            {"log_scale": np.log([low_scale])},
            {"log_scale": np.log([top_scale])},
        ],
    }
    like = jax.tree.map(jnp.shape, params["inference"])
    assert jax.tree.map(np.shape, phi) == like
    return params | {"inference": jax.tree.map(jnp.asarray, phi)}


def _exact_case():
    model, params = _linear_gaussian()
    joint = _joint(model, params)
    x = np.array([0.4, -1.2, 0.8])
    exact = stats.multivariate_normal(joint[0][2:], joint[1][2:, 2:]).logpdf(x)
    return model, _with_exact_posterior(params, joint), jnp.asarray(x), exact


@pytest.mark.usefixtures("x64")
def test_every_weight_is_the_evidence_when_a_top_down_q_is_the_posterior():
    model, params, x, exact = _exact_case()
    sample = functools.partial(importance.sample_log_weights, model=model, num_samples=50)
    log_weights = jax.jit(sample)(params, jax.random.key(0), x)
    np.testing.assert_allclose(log_weights, np.full(50, exact), atol=1e-10)
    # and it is well off when phi is
    off = params | {"inference": perturbed(params["inference"], jax.random.key(1), 0.1)}
    assert jax.jit(sample)(off, jax.random.key(0), x).std() > 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_bounds_of_a_top_down_model_reach_the_exact_evidence():
    model, params, x, exact = _exact_case()
    params = params | {"inference": perturbed(params["inference"], jax.random.key(1), 0.1)}
    log_weights = jax.jit(
        functools.partial(importance.sample_log_weights, model=model, num_samples=40_000)
    )(params, jax.random.key(0), x)
    ratio = np.exp(np.asarray(log_weights) - exact)
    assert abs(ratio.mean() - 1.0) < 4 * ratio.std() / 200
    assert log_weights.mean() < exact - 0.01


CHAINS = {
    "annealed": {"num_temperatures": 12, "num_chains": 64, "num_leapfrog": 3},
    "smc": {"num_repeats": 32, "num_particles": 32, "num_moves": 1, "num_leapfrog": 3},
}
QUICKLY = {"pilot_examples": 4, "pilot_temperatures": 4, "pilot_moves": 10}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in CHAINS])
def test_chains_meet_the_exact_evidence_of_a_top_down_model(name):
    """They see p through both layers' path alone; errors as they promise, over 12 examples."""
    model, params, _, _ = _exact_case()
    mean, covariance = _joint(model, params)
    params = params | {"inference": perturbed(params["inference"], jax.random.key(1), 0.1)}
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=12)
    exact = stats.multivariate_normal(mean[2:], covariance[2:, 2:]).logpdf(x)
    config = evidence.ESTIMATORS[name].Config(**CHAINS[name] | QUICKLY)
    estimator = evidence.ESTIMATORS[name].build(config, model=model)
    found = evidence_models.run(estimator, params, x)
    for row in found.values():
        value, variance = np.asarray(row.value)[0], np.asarray(row.variance)[0]
        z = (value - exact) / np.sqrt(variance)
        assert np.abs(z).max() < 5.0
        assert abs((value - exact).mean()) < 4 * np.sqrt(variance.mean() / len(x)) + variance.mean()


# Gradients of parameters that p and q share.


@functools.cache
def _nonlinear(merge="concat"):
    model = _built(
        latent_dims=(2, 1),
        encoder="mlp(hidden_dims=(2,))",
        hierarchy=f"top_down(features=2, merge={merge!r})",
    )
    return model, _moved(model, 7, 0.5)


PIXELS = jnp.array([1.0, 0.0, 1.0])


def _gradients(pairs, num_draws, merge="concat"):
    """Per (estimator, target) gradients of all draws on common keys, flat: [draws, P]."""
    model, params = _nonlinear(merge)

    def gradient(key, name, target):
        surrogate = gradients.surrogate(gradients.parse(name))
        value = lambda p: surrogate(p, key, PIXELS, model=model, target=target)[0]
        return ravel_pytree(jax.grad(value)(params))[0]

    every = lambda key: [gradient(key, *pair) for pair in pairs]
    return jax.jit(jax.vmap(every))(jax.random.split(jax.random.key(3), num_draws))


def _z(difference):
    difference = np.asarray(difference)
    error = difference.std(axis=0) / np.sqrt(len(difference))
    return np.abs(difference.mean(axis=0)) / np.maximum(error, 1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("merge", top_down.MERGES)
def test_sound_pairs_agree_with_pathwise_in_shared_parameters(merge):
    """No coordinate of theta or phi is off by four errors, over paired draws; and the sums of
    `weighted_draws` are what `pathwise` itself gives."""
    model, params = _nonlinear(merge)
    keys = jax.random.split(jax.random.key(3), 8000)
    draws = weighted_draws.draw(params, keys, PIXELS, model=model, num_samples=4)
    for bound in bounds.BOUNDS:
        plain = weighted_draws.flat(weighted_draws.gradient(draws, "pathwise", bound))
        for name in ("stl", "doubly_reparameterized"):
            if gradients.bias(gradients.parse(name), bounds.parse(bound)) is None:
                ours = weighted_draws.flat(weighted_draws.gradient(draws, name, bound))
                assert _z(ours - plain).max() < 4.0, (bound, name)
                assert np.abs(ours - plain).max() > 1e-3, (bound, name)  # not the same estimator
    (itself,) = _gradients([("pathwise", Target(bounds.iwae, 4))], 8000, merge)
    sums = weighted_draws.flat(weighted_draws.gradient(draws, "pathwise", "iwae"))
    np.testing.assert_allclose(itself[:20], sums[:20], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_biased_estimator_is_found_biased_in_shared_parameters():
    target = Target(bounds.iwae, 4)
    ours, plain = _gradients([("stl", target), ("pathwise", target)], 20_000)
    _, params = _nonlinear()
    path = params["generative"]["decoders"][1]
    sizes = jax.tree.map(jnp.zeros_like, params)
    sizes["generative"]["decoders"][1] = jax.tree.map(jnp.ones_like, path)
    shared = np.asarray(ravel_pytree(sizes)[0], bool)
    assert _z(ours - plain)[shared].max() > 6.0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_wake_phi_and_its_double_reparameterisation_agree_in_shared_parameters():
    target = Target(bounds.iwae, 4)
    names = ("wake_phi", "doubly_reparameterized_wake_phi")
    wake, double = _gradients([(name, target) for name in names], 8000)
    assert _z(wake - double).max() < 4.0


def _views(objective):
    """d objective(p's view, q's view) / d params: the sum over both."""
    _, params = _nonlinear()
    of_p, of_q = jax.grad(objective, argnums=(0, 1))(params, params)
    return ravel_pytree(jax.tree.map(jnp.add, of_p, of_q))[0]


def _log_weights(of_p, of_q, key, num_samples):
    model, _ = _nonlinear()
    seen = model._replace(posterior=lambda params, x: model.posterior(of_q, x))
    return importance.sample_log_weights(of_p, key, PIXELS, model=seen, num_samples=num_samples)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_each_view_follows_its_own_bound():
    """PIWAE: p's view of the path follows L_4, q's view the mean of two L_2, on the same draws."""
    key, stop = jax.random.key(5), jax.lax.stop_gradient
    miwae = functools.partial(bounds.miwae, num_groups=2)
    model, params = _nonlinear()

    def objective(of_p, of_q):
        theta = bounds.iwae(_log_weights(of_p, stop(of_q), key, 4))
        return theta + miwae(_log_weights(stop(of_p), of_q, key, 4))

    expected = jax.jit(lambda: _views(objective))()
    target = Target(bounds.iwae, 4, miwae)
    value = lambda p: surrogates.pathwise(p, key, PIXELS, model=model, target=target)[0]
    ours = ravel_pytree(jax.jit(jax.grad(value))(params))[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_sleep_moves_the_shared_path_by_the_bound_of_p_and_the_dreams_of_q():
    key, stop = jax.random.key(5), jax.lax.stop_gradient
    model, params = _nonlinear()
    data_key, dream_key = jax.random.split(key)

    def objective(of_p, of_q):
        theta = bounds.iwae(_log_weights(of_p, stop(of_q), data_key, 3))

        def dream(key):
            z_key, x_key = jax.random.split(key)
            z = model.prior(params).sample(z_key)
            x = model.likelihood(params, z).sample(x_key)
            return model.posterior(of_q, x).log_prob(z)

        return theta + jnp.mean(jax.vmap(dream)(jax.random.split(dream_key, 3)))

    expected = jax.jit(lambda: _views(objective))()
    target = Target(bounds.iwae, 3)
    value = lambda p: surrogates.sleep_phi(p, key, PIXELS, model=model, target=target)[0]
    ours = ravel_pytree(jax.jit(jax.grad(value))(params))[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conv", "resnet"])
def test_a_hierarchy_on_maps_trains(network):
    """Seventy steps on digits, with latents on maps of 4 x 4 and 2 x 2, raise the ELBO."""
    config = small_config(
        model__latent_dims=(2, 4),
        model__encoder=f"{network}(channels=(8,))",
        model__hierarchy="top_down(features=8, downsampling=(2, 4))",
        training__batch_size=100,
    )
    data = splits.training_data(config)
    model = latent_variable.build(config.model, data.spec)
    plan = training.make_plan(config, len(data.images))
    call = jax.jit(functools.partial(training.train_call, config=config, model=model, plan=plan))
    state = jax.jit(lambda: training.init_state(config, model=model))()
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)  # compiles once
    losses = []
    while len(losses) < 70:
        state, metrics = call(state, jnp.asarray(data.images))
        losses.extend(np.asarray(metrics["loss"]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 1.0
