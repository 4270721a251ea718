"""Rate-distortion curves: of a linear-Gaussian decoder, known in closed form; of runs, as drawn."""

import functools

import jax
import numpy as np
import pytest
from evidence_models import linear, simulate

from vaejax.comparison import rate_distortion as planes
from vaejax.comparison.statistics import Run, Setting
from vaejax.errors import UserError
from vaejax.evidence import annealing, rate_distortion
from vaejax.evidence.annealing import Budget
from vaejax.models import linear_gaussian


def _exact(params, x, b):
    """Rate and distortion of N(m, P^-1), P = I + b W'W / s^2, m = b P^-1 W'(x - bias) / s^2."""
    own = linear_gaussian.of(params)
    weights, noise = np.asarray(own.weights, float), float(np.exp(own.log_scale))
    residual = np.asarray(x, float) - np.asarray(own.bias, float)
    covariance = np.linalg.inv(np.eye(weights.shape[1]) + b * weights.T @ weights / noise**2)
    mean = b * covariance @ weights.T @ residual / noise**2
    spread = np.trace(weights @ covariance @ weights.T)
    squared = np.sum((residual - weights @ mean) ** 2) + spread
    distortion = 0.5 * squared / noise**2 + 0.5 * len(residual) * np.log(2 * np.pi * noise**2)
    log_det = np.linalg.slogdet(covariance)[1]
    rate = 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det)
    return rate, distortion


def _curves(num_temperatures, *, num_seeds, num_chains=8):
    """The curves [seeds, N, T] of four x, their temperatures and the exact ones."""
    model, params = linear(num_latents=2, size=6)
    x = simulate(params, jax.random.key(2), model=model, count=4)
    budget = Budget(
        start="prior",
        num_temperatures=num_temperatures,
        num_chains=num_chains,
        pilot_temperatures=10,
        pilot_examples=4,
    )
    schedule = jax.jit(functools.partial(annealing.pilot, model=model, budget=budget))(
        params, jax.random.key(0), x
    )
    one = functools.partial(rate_distortion.estimate, model=model, budget=budget)
    keys = jax.random.split(jax.random.key(1), (num_seeds, len(x)))
    over = jax.vmap(jax.vmap(lambda key, x: one(params, key, x, schedule)), (0, None))
    found = jax.jit(over)(keys, x)
    b = np.asarray(schedule.temperatures[1:], float)
    exact = np.array([[_exact(params, row, t) for t in b] for row in x])
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), found), b, exact


@pytest.mark.slow
def test_the_curve_of_a_linear_gaussian_decoder_is_the_exact_one(x64):
    found, b, exact = _curves(100, num_seeds=40)
    sides = {"rate": found.rate, "distortion": found.distortion}
    sides["minus log Z"] = found.rate + b * found.distortion
    known = {"rate": exact[..., 0], "distortion": exact[..., 1]}
    known["minus log Z"] = known["rate"] + b * known["distortion"]
    for name, most in (("rate", 0.1), ("distortion", 0.1), ("minus log Z", 0.05)):
        means = sides[name].mean(axis=1)  # over examples, [seeds, T]
        error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
        assert error[-1] < most
        off = means.mean(axis=0) - known[name].mean(axis=0)
        assert (np.abs(off) < 4.5 * error + 0.01).all()


@pytest.mark.slow
def test_few_temperatures_leave_the_points_above_the_curve(x64):
    """R + b D is -log of an unbiased estimate of Z_b: too large in expectation, here visibly."""
    found, b, exact = _curves(3, num_seeds=200, num_chains=2)
    ours = (found.rate + b * found.distortion).mean(axis=1)
    truth = (exact[..., 0] + b * exact[..., 1]).mean(axis=0)
    error = ours.std(axis=0, ddof=1) / np.sqrt(len(ours))
    assert (ours.mean(axis=0) > truth - 3 * error).all()
    assert ours.mean(axis=0)[-1] > truth[-1] + 4 * error[-1]


def _setting(name, *, beta, rate, distortion):
    """One run of four examples at that place of the plane."""
    spread = np.array([-1.0, 0.0, 0.0, 1.0])
    kl, reconstruction = rate + 0.1 * spread, -distortion + spread
    values = {"kl": kl, "reconstruction": reconstruction, "elbo": reconstruction - kl}
    protocol = {"dataset": "d", "split": "test", "num_examples": 4, "num_samples": 2}
    variances = {key: np.zeros(4) for key in values}
    config = {"seed": 0, "objective": {"beta": beta}}
    return Setting(name, [Run(name, config, {"protocol": protocol}, values, variances, [])])


def test_the_line_goes_through_the_best_elbo():
    parts = [
        _setting("low", beta=0.5, rate=9.0, distortion=5.0),
        _setting("best", beta=1.0, rate=4.0, distortion=8.0),
        _setting("$high_", beta=4.0, rate=1.0, distortion=15.0),
    ]
    found = planes.plane(parts, None)
    assert [one.name for one in found.points] == ["$high_", "best", "low"]
    assert (found.best.name, found.best.elbo.value) == ("best", -12.0)
    rows = planes.as_json(found)["points"]
    assert [row["rate"] + row["distortion"] + row["elbo"] for row in rows] == [0.0] * 3
    assert rows[1]["distortion_error"] == pytest.approx(np.sqrt(2 / 3) / 2)
    lines = planes.figure(found).axes[0].lines
    (line,) = [line for line in lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(line.get_xdata() + line.get_ydata(), 12.0)
    above = list(planes.table(found, encoding="utf-8").columns[-1].cells)
    assert [str(cell) for cell in above] == ["4.000", "0.000", "2.000"]


def test_settings_that_fall_together_share_a_label():
    parts = [
        _setting("a", beta=1.0, rate=4.0, distortion=8.0),
        _setting("b", beta=4.0, rate=0.01, distortion=15.0),
        _setting("c", beta=8.0, rate=0.0, distortion=15.01),
    ]
    texts = planes.figure(planes.plane(parts, None)).axes[0].texts
    assert [text.get_text().strip() for text in texts] == ["c, b", "a"]


def test_runs_without_a_finite_elbo_have_no_line():
    with pytest.raises(UserError, match="no run has a finite ELBO"):
        planes.plane([_setting("a", beta=1.0, rate=np.nan, distortion=1.0)], None)
