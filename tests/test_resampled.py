"""Gradients of few of the K samples: the draw is exact, and the mean is the pathwise gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quadrature
import traced_bounds
from conftest import model_config

from vaejax.errors import UserError
from vaejax.laboratory import settings as settings_lib
from vaejax.models import latent_variable
from vaejax.objectives import bounds, gradients, resampled
from vaejax.objectives.surrogates import Target
from vaejax.types import DataSpec

pytestmark = pytest.mark.usefixtures("x64")
SHARES = {
    "even": np.ones(7),
    "one above all": np.array([1e-6, 3.0, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6]),
    "two certain": np.array([0.1, 5.0, 0.2, 0.05, 4.0, 0.15, 0.1]),
    "spread": np.exp(np.random.default_rng(0).normal(size=7) * 1.5),
}


@pytest.mark.parametrize("num_kept", [1, 3, 6])
@pytest.mark.parametrize("case", SHARES)
def test_no_other_probabilities_have_less_variance(case, num_kept):
    """sum share^2 / pi on {pi <= 1, sum pi = R} is convex: no way to move mass lowers it."""
    shares = SHARES[case] / SHARES[case].sum()
    pi = np.asarray(resampled.inclusion(jnp.asarray(shares), num_kept=num_kept))
    np.testing.assert_allclose(pi.sum(), num_kept, rtol=1e-12)
    assert pi.min() > 0.0
    assert pi.max() <= 1.0
    gain = (shares / pi) ** 2  # minus the derivative of each term in its pi
    free = pi < 1.0
    np.testing.assert_allclose(gain[free], gain[free].max(initial=0.0), rtol=1e-9)
    assert gain[~free].min(initial=np.inf) >= gain[free].max(initial=0.0) * (1 - 1e-9)


@pytest.mark.parametrize("num_kept", [1, 3, 6])
@pytest.mark.parametrize("case", SHARES)
def test_samples_are_kept_with_their_probabilities_and_once(case, num_kept):
    pi = resampled.inclusion(jnp.asarray(SHARES[case]), num_kept=num_kept)
    draw = functools.partial(resampled.systematic, num_kept=num_kept)
    kept = np.asarray(jax.jit(jax.vmap(lambda key: draw(pi, key)))(jax.random.split(KEY, 20_000)))
    assert all(len(set(row)) == num_kept for row in kept[:500])
    found = np.bincount(kept.ravel(), minlength=7) / len(kept)
    error = np.sqrt(np.maximum(pi * (1 - pi), 1e-12) / len(kept))
    np.testing.assert_array_less(abs(found - pi), 4 * error + 1e-9)


KEY = jax.random.key(5)


def test_one_of_two_has_the_exact_gradient_of_every_bound():
    quadrature.check(("resampled",))


@pytest.mark.parametrize("num_backward", [1, 3])
def test_kept_samples_agree_with_all_of_them(num_backward):
    """K = 6, beta = 0.7, paired draws; negative c too, which the jackknife has."""
    _, params = quadrature.model_and_params()

    @jax.jit
    def differences(number):
        target = Target(traced_bounds.numbered(number), 6, beta=0.7)
        ours = f"resampled(num_backward={num_backward})"
        kept, every = quadrature.draws_of(
            params, [(ours, target), ("pathwise", target)], num_draws=4000
        )
        return jax.tree.map(jnp.subtract, kept, every)

    for number, name in enumerate(traced_bounds.NAMES):
        found = differences(number)
        zero = jax.tree.map(lambda leaf: 0.0, found)
        for group, errors in quadrature.standard_errors(found, zero).items():
            assert np.abs(errors).max() < 4.5, (name, group)


def test_more_kept_samples_have_less_variance_and_all_but_one_nearly_none():
    _, params = quadrature.model_and_params()
    target = Target(bounds.iwae, 6)
    sizes = (1, 2, 5)
    names = ["pathwise", *(f"resampled(num_backward={size})" for size in sizes)]
    every, *kept = quadrature.draws_of(params, [(name, target) for name in names], num_draws=2000)
    extra = [
        sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in ((one, every) for one in kept)
    ]
    assert extra[0] > 2 * extra[1] > 4 * extra[2] > 0.0


def test_value_and_log_densities_are_those_of_the_pathwise_gradient():
    model, params = quadrature.model_and_params()
    target = Target(bounds.iwae, 8)
    arguments = (params, jax.random.key(1), jnp.asarray(quadrature.X))
    kept = resampled.resampled(*arguments, model=model, target=target, num_backward=3)
    every = gradients.surrogate(gradients.parse("pathwise"))(*arguments, model=model, target=target)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), kept, every)


def test_shares_that_underflow_in_float32_leave_the_others_even():
    """One weight e^200 above the others: its share is 1, theirs are 0."""
    with jax.enable_x64(False):
        shares = jax.grad(bounds.iwae)(jnp.array([200.0] + [0.0] * 49))
        pi = resampled.inclusion(shares, num_kept=8)
        assert shares[1] == 0.0
        assert pi[0] == 1.0
        assert pi.dtype == jnp.float32
        np.testing.assert_allclose(pi[1:], 7 / 49, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "num_samples", "inference_bound", "message"),
    [
        ("resampled(num_backward=0)", 5, None, "num_backward: must be at least 1, got 0"),
        ("resampled(num_backward=5)", 5, None, "needs num_samples >= 6, got 5"),
        ("resampled", 5, "elbo", "one bound for theta and phi; leave out inference_bound"),
    ],
)
def test_what_cannot_be_is_refused(text, num_samples, inference_bound, message):
    phi_bound = None if inference_bound is None else bounds.parse(inference_bound)
    (problem,) = gradients.refusals(
        gradients.parse(text), bounds.parse("iwae"), phi_bound, num_samples=num_samples
    )
    assert message in problem


def test_laboratory_leaves_out_the_k_that_are_too_small():
    (pair,) = settings_lib.parse_pairs("iwae:resampled(num_backward=4)")
    model = latent_variable.build(model_config(), DataSpec((3,), None))
    assert pair.reference_samples(model) == 5
    settings = settings_lib.Settings((pair,), (4,))
    with pytest.raises(UserError, match="needs num_samples >= 5, got 4"):
        settings_lib.resolved(settings, model, trained=None)
