"""Contracts that hold for every bound of the registry, and values worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import RenyiELBO
from numpyro.infer.util import log_density

from vaejax import numerics
from vaejax.evaluation import per_example
from vaejax.evidence import diagnostics
from vaejax.objectives import bounds

LOG_WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(-90.0, 4.0, 64), jnp.float32)
every_bound = pytest.mark.parametrize("name", bounds.BOUNDS)


@every_bound
def test_shifting_the_log_weights_shifts_the_bound(name):
    bound = bounds.FUNCTIONS[name]
    np.testing.assert_allclose(bound(LOG_WEIGHTS + 7.0), bound(LOG_WEIGHTS) + 7.0, atol=2e-5)


@every_bound
def test_order_of_samples_does_not_matter(name):
    bound = bounds.FUNCTIONS[name]
    np.testing.assert_allclose(bound(LOG_WEIGHTS[::-1]), bound(LOG_WEIGHTS), atol=2e-5)


@every_bound
@pytest.mark.parametrize("num_samples", [2, 6])
def test_equal_log_weights_are_the_bound(name, num_samples):
    np.testing.assert_allclose(
        bounds.FUNCTIONS[name](jnp.full(num_samples, -93.5)), -93.5, rtol=1e-6
    )


@every_bound
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_value_and_gradient_are_finite_in_float32(name, scale):
    log_weights = jnp.float32(scale) * jnp.linspace(-1.0, 1.0, 8) - 1e4
    chex.assert_tree_all_finite(jax.value_and_grad(bounds.FUNCTIONS[name])(log_weights))


class EveryBoundUnderEveryVariant(chex.TestCase):
    """With and without jit, arguments on the device and off it."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_value_is_the_same(self):
        for name, bound in bounds.FUNCTIONS.items():
            with self.subTest(name):
                value = self.variant(lambda w, bound=bound: bound(jnp.asarray(w)))(LOG_WEIGHTS)
                np.testing.assert_allclose(value, bound(LOG_WEIGHTS), rtol=1e-6)


@every_bound
def test_gradient_with_respect_to_log_weights_sums_to_one(name):
    """Follows from the shift contract; catches a factor K or 1/K in a surrogate."""
    gradient = jax.grad(bounds.FUNCTIONS[name])(jnp.asarray(LOG_WEIGHTS))
    np.testing.assert_allclose(gradient.sum(), 1.0, rtol=3e-5)


def test_elbo_and_iwae_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(bounds.elbo(log_weights), 1.5 * np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(bounds.iwae(log_weights), np.log(15.0 / 4.0), rtol=1e-6)


WEIGHTS = np.array([0.3, 1.0, 2.0, 0.05, 4.0, 0.7])


def _by_hand(name, options):
    """Each bound of `WEIGHTS` again, in plain float64 from the definition."""
    log_w = np.log(WEIGHTS)
    if name == "miwae":
        return np.mean([np.log(group.mean()) for group in np.split(WEIGHTS, options["num_groups"])])
    if name == "ciwae":
        return options["beta"] * log_w.mean() + (1 - options["beta"]) * np.log(WEIGHTS.mean())
    if name == "renyi":
        power = 1 - options["alpha"]
        return np.log(np.mean(WEIGHTS**power)) / power
    if name == "cubo":
        return np.log(np.mean(WEIGHTS ** options["order"])) / options["order"]
    if name == "tvo":
        at = options["partition"][:-1] if options["side"] == "left" else options["partition"][1:]
        means = [np.average(log_w, weights=WEIGHTS**beta) for beta in at]
        return np.diff(options["partition"]) @ means
    without = [np.log(np.delete(WEIGHTS, i).mean()) for i in range(6)]
    return 6 * np.log(WEIGHTS.mean()) - 5 * np.mean(without)


@pytest.mark.parametrize(
    "text",
    [
        "miwae(num_groups=2)",
        "miwae(num_groups=3)",
        "ciwae(beta=0.3)",
        "renyi(alpha=0.5)",
        "renyi(alpha=-1.5)",
        "renyi(alpha=2.0)",
        "cubo(order=2.0)",
        "tvo(partition=(0.0, 0.2, 1.0), side='left')",
        "tvo(partition=(0.0, 0.2, 1.0), side='right')",
        "jackknife",
    ],
)
@pytest.mark.usefixtures("x64")
def test_value_is_that_of_the_definition(text):
    part = bounds.parse(text)
    value = bounds.make(text)(jnp.log(WEIGHTS))
    np.testing.assert_allclose(value, _by_hand(part.name, dict(part.options)), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("miwae(num_groups=1)", "iwae"),
        ("miwae(num_groups=64)", "elbo"),
        ("ciwae(beta=0.0)", "iwae"),
        ("ciwae(beta=1.0)", "elbo"),
        ("renyi(alpha=0.0)", "iwae"),
        ("renyi(alpha=1.0)", "elbo"),
        ("renyi(alpha=0.999999)", "elbo"),
        ("renyi(alpha=1.000001)", "elbo"),
        ("renyi(alpha=-200.0)", "vr_max"),
        ("renyi(alpha=-1.0)", "cubo(order=2.0)"),
        ("tvo(partition=(0.0, 1.0))", "elbo"),
        ("cubo(order=1.0)", "iwae"),
    ],
)
@pytest.mark.usefixtures("x64")
def test_special_cases_agree_in_value_and_gradient(text, same):
    # alpha = 1 -+ 1e-6 is Var(log w)/2 * 1e-6 off the elbo; alpha = -200 is log(64)/201 off.
    tolerance = 0.03 if "-200" in text else 2e-5 if "00000" in text or "99" in text else 1e-12
    log_weights = jnp.asarray(LOG_WEIGHTS, jnp.float64)
    for ours, theirs in zip(
        jax.value_and_grad(bounds.make(text))(log_weights),
        jax.value_and_grad(bounds.make(same))(log_weights),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@every_bound
def test_one_sample_gives_its_own_log_weight(name):
    options = "(num_groups=1)" if name == "miwae" else ""
    np.testing.assert_allclose(bounds.make(name + options)(LOG_WEIGHTS[:1]), LOG_WEIGHTS[0])


@pytest.mark.parametrize("alpha", [1 - 1e-3, 1 - 1e-5, 1.0, 1 + 1e-5, 0.3, -1.5])
def test_renyi_keeps_its_digits_in_float32(alpha):
    """Near alpha = 1 the plain form in float32 is off by up to 0.09 nat."""
    exact = np.asarray(LOG_WEIGHTS, np.float64)
    power, center = 1.0 - np.float64(alpha), exact.mean()
    if power:
        expected = center + np.log(np.mean(np.exp(power * (exact - center)))) / power
    else:
        expected = center
    value = jax.jit(bounds.renyi)(jnp.asarray(LOG_WEIGHTS), alpha=jnp.float32(alpha))
    # float32 holds alpha to 6e-8, and the bound moves by Var(log w)/2 = 8 nats per unit of it.
    np.testing.assert_allclose(value, expected, atol=5e-5)


def test_power_mean_has_the_right_gradient_on_both_sides_of_its_switch():
    """The two forms meet where power times the largest deviation is 0.5."""
    values = jnp.array([-1.0, 0.0, 0.4, 1.0])
    for power in (0.49, 0.51, 1e-9, 1e-14, 0.0):
        ours = jax.grad(numerics.power_mean)(values, power)
        np.testing.assert_allclose(ours, jax.nn.softmax(power * values), rtol=2e-6)


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("elbo", "lower"),
        ("elbo()", "lower"),
        ("iwae", "lower"),
        ("renyi(alpha=0.5)", "lower"),
        ("renyi(alpha=2.0)", "lower"),
        ("renyi(alpha=-1.0)", "upper"),
        ("cubo(order=2.0)", "upper"),
        ("tvo(side='right')", "upper"),
        ("tvo", "lower"),
        ("vr_max", "neither"),
        ("jackknife", "neither"),
    ],
)
def test_a_bound_knows_its_side_from_its_options(text, side):
    part = bounds.parse(text)
    assert bounds.side(part) == side
    value = bounds.of(part)(jnp.asarray(LOG_WEIGHTS))
    sign = -1.0 if side == "upper" else 1.0
    np.testing.assert_allclose(bounds.to_maximize(part)(jnp.asarray(LOG_WEIGHTS)), sign * value)


def test_options_of_a_bound_are_data_of_one_program():
    traces = []

    @jax.jit
    def value(part, log_weights):
        traces.append(1)
        return bounds.to_maximize(part)(log_weights)

    log_weights = jnp.asarray(LOG_WEIGHTS)
    for alpha in (-1.0, 0.2, 0.7):
        part = bounds.parse(f"renyi(alpha={alpha})")
        expected = bounds.renyi(log_weights, alpha=alpha) * (-1.0 if alpha < 0 else 1.0)
        np.testing.assert_allclose(value(part, log_weights), expected, rtol=1e-5)
    assert len(traces) == 1
    parts = [bounds.parse(f"tvo(partition=(0.0, {b}, 1.0))") for b in (0.1, 0.4)]
    values = [float(value(part, log_weights)) for part in parts]
    assert len(traces) == 2
    assert values[0] != values[1]


def test_groups_of_miwae_are_not_swapped():
    """Two groups of three: within a group the mean of weights, between groups that of logs."""
    log_weights = jnp.log(jnp.array([1.0, 1.0, 1.0, 8.0, 8.0, 8.0]))
    np.testing.assert_allclose(bounds.miwae(log_weights, num_groups=2), np.log(8) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        bounds.miwae(log_weights, num_groups=3),
        (np.log(1.0) + np.log(4.5) + np.log(8.0)) / 3,
        rtol=1e-6,
    )


def test_sides_of_the_thermodynamic_sum_enclose_the_evidence():
    """With many samples, left sum <= log((1/K) sum w) <= right sum (Masrani et al. 2019)."""
    log_weights = jnp.asarray(np.random.default_rng(4).normal(-1.0, 1.0, 20_000), jnp.float32)
    left, right = (bounds.tvo(log_weights, side=side) for side in ("left", "right"))
    assert left < bounds.iwae(log_weights) < right


def test_renyi_is_numpyros_on_the_same_samples():
    """numpyro.infer.RenyiELBO draws from keys; the log weights of those keys are rebuilt here."""

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(2.0 * z, 0.5), obs=0.7)

    def guide():
        numpyro.sample("z", dist.Normal(0.1, 0.8))

    def log_weight(key):
        model_key, guide_key = jax.random.split(key)
        sample = handlers.trace(handlers.seed(guide, guide_key)).get_trace()["z"]["value"]
        joint, _ = log_density(handlers.seed(model, model_key), (), {}, {"z": sample})
        return joint - dist.Normal(0.1, 0.8).log_prob(sample)

    key, alpha = jax.random.key(5), -0.7
    theirs = -RenyiELBO(alpha=alpha, num_particles=16).loss(key, {}, model, guide)
    particles = jax.random.split(jax.random.split(key)[1], 16)  # the first key is for plates
    ours = bounds.renyi(jax.vmap(log_weight)(particles), alpha=alpha)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_effective_sample_size_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(
        diagnostics.effective_sample_size(log_weights), 16.0 / 6.0, rtol=1e-6
    )
    np.testing.assert_allclose(diagnostics.effective_sample_size(jnp.zeros(50)), 50.0, rtol=1e-6)


def test_grouped_iwae_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 3.0, 5.0, 7.0, 100.0]))
    value, variance = diagnostics.grouped_iwae(log_weights, group_size=2)
    groups = np.log([2.0, 6.0])  # the fifth weight makes no whole group
    np.testing.assert_allclose(value, groups.mean(), rtol=1e-6)
    np.testing.assert_allclose(variance, groups.var(ddof=1) / 2, rtol=1e-5)


def test_error_of_one_sample_is_unknown_not_zero():
    assert np.isnan(diagnostics.grouped_iwae(jnp.zeros(1), group_size=1)[1])
    assert np.isnan(diagnostics.mean_variance(jnp.zeros(1)))


@pytest.mark.parametrize("group_size", [0, 6])
def test_group_size_outside_the_samples_is_refused(group_size):
    with pytest.raises(ValueError, match=r"1\.\.5"):
        diagnostics.grouped_iwae(jnp.zeros(5), group_size=group_size)


def test_delta_method_error_covers_as_it_says():
    """95% intervals of log p^ cover the truth in 0.93 to 0.97 of runs at a large ESS."""
    log_weights = jnp.asarray(
        np.random.default_rng(2).normal(-0.125, 0.5, (4000, 400)), jnp.float32
    )
    values = jax.vmap(bounds.iwae)(log_weights)  # E[w] = 1, so log p = 0
    errors = jnp.sqrt(jax.vmap(diagnostics.log_mean_variance)(log_weights))
    coverage = float(jnp.mean(jnp.abs(values) < 1.96 * errors))
    assert 0.93 < coverage < 0.97


def test_unit_activity_removes_the_noise_of_dead_units():
    rng = np.random.default_rng(3)
    signal = np.stack([np.zeros(3000), rng.normal(0.0, 0.5, 3000)], axis=1)
    draws = signal[:, None, :] + rng.normal(0.0, 1.0, (3000, 8, 2))
    means, noise = jax.vmap(diagnostics.mean_moments)(jnp.asarray(draws))
    (activity,) = per_example.unit_activity(per_example.PerExample(None, {}, [means], [noise]))
    assert activity[0] < 0.01 < np.var(np.asarray(means)[:, 0])
    np.testing.assert_allclose(activity[1], 0.25, atol=0.03)


@pytest.mark.parametrize(
    "text", [*bounds.BOUNDS, "renyi(alpha=2.0)", "renyi(alpha=-1.0)", "tvo(side='right')"]
)
@pytest.mark.parametrize("num_samples", [4, 8])
def test_a_bound_without_a_best_q_gains_by_a_wide_one(text, num_samples):
    """p(z|x) = N(0, 1) and log p(x) = 0: by a wide q an objective gains much, or nothing.

    vr_max alone may lie above log p(x), by log K at most. Five standard errors, one seed.
    """
    part, scale = bounds.parse(text), 64.0
    z = scale * jax.random.normal(jax.random.key(0), (20_000, num_samples))
    log_weights = -0.5 * jnp.square(z) + 0.5 * jnp.square(z / scale) + jnp.log(scale)
    values = np.asarray(jax.vmap(bounds.to_maximize(part))(log_weights), np.float64)
    error = values.std() / np.sqrt(len(values))
    if bounds.has_best_q(part):
        assert values.mean() < np.log(num_samples) + 5.0 * error
    else:
        assert values.mean() > 10.0 + 5.0 * error


def test_jackknife_passes_log_p_from_a_q_a_little_too_wide():
    """So the exact posterior is no maximum: at 1.5 times its width E is above log p(x) = 0."""
    z = 1.5 * jax.random.normal(jax.random.key(1), (200_000, 3))
    log_weights = -0.5 * jnp.square(z) + 0.5 * jnp.square(z / 1.5) + jnp.log(1.5)
    values = np.asarray(jax.vmap(bounds.jackknife)(log_weights), np.float64)
    assert values.mean() > 5.0 * values.std() / np.sqrt(len(values))
