"""Bias, variance and signal-to-noise ratio of gradient estimators, by repeated draws.

The randomness measured is that of z alone: the examples are fixed. All estimators of one
bound and K are drawn with common keys, so that their differences are paired.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.objectives import bounds, gradients, surrogates
from vaejax.parts import Part
from vaejax.types import Model, Params

GROUPS = {"phi": "inference", "theta": "generative"}
NUM_BLOCKS = 20
Z_LIMIT = 3.0


class Pair(NamedTuple):
    """A bound and a gradient estimator, with their options."""

    bound: Part
    estimator: Part

    @property
    def label(self) -> str:
        """ "bound:estimator", as the command line has it."""
        return f"{self.bound}:{self.estimator}"

    @property
    def record(self) -> gradients.Gradient:
        """The estimator itself."""
        return gradients.GRADIENTS[self.estimator.name]

    def reference(self, model: Model) -> "Pair":
        """The pair known to be unbiased that this one is compared with; may be itself."""
        name = self.record.reference
        if model.support.is_discrete and gradients.GRADIENTS[name].needs_path:
            name = gradients.WITHOUT_PATH
        return self if name == self.estimator.name else Pair(self.bound, gradients.parse(name))

    def reference_samples(self, model: Model) -> int:
        """The fewest samples K with which it and its reference can be drawn."""
        pairs = (self, self.reference(model))
        return max(gradients.min_samples(pair.estimator) for pair in pairs)


class Moments(NamedTuple):
    """Of the draws of one block, or [R] blocks: sums over draws, per coordinate.

    Attributes:
      mean: of the gradient.
      square: sum of squared distances to it.
      difference_mean: of the paired difference to the reference.
      difference_square: sum of squared distances to that.
    """

    mean: PyTree
    square: PyTree
    difference_mean: PyTree
    difference_square: PyTree


def gradient(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "E ..."],
    *,
    model: Model,
    pair: Pair,
    num_samples: int,
) -> Params:
    """One draw of the gradient of the mean bound of E examples, with K samples each."""
    surrogate = gradients.surrogate(pair.estimator)
    target = surrogates.Target(bounds.of(pair.bound), num_samples)

    def objective(params):
        keys = jax.random.split(key, x.shape[0])
        each = jax.vmap(lambda k, x: surrogate(params, k, x, model=model, target=target)[0])
        return jnp.mean(each(keys, x))

    return jax.grad(objective)(params)


def add_draw(count: Array, mean: PyTree, square: PyTree, value: PyTree) -> tuple[PyTree, PyTree]:
    """Mean and sum of squared distances with `value` as draw number `count` (from 1).

    Welford (1962).
    """
    step = jax.tree.map(lambda v, m: v - m, value, mean)
    mean = jax.tree.map(lambda m, s: m + s / count, mean, step)
    square = jax.tree.map(lambda q, s, v, m: q + s * (v - m), square, step, value, mean)
    return mean, square


def draw_moments(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "E ..."],
    *,
    model: Model,
    pairs: Sequence[Pair],
    num_samples: int,
    num_draws: int,
) -> dict[Pair, Moments]:
    """Moments of `num_draws` gradients of each pair in blocks, [NUM_BLOCKS, ...] each.

    All pairs share the keys of draw n, and so do their references.
    """
    needed = list(dict.fromkeys([*pairs, *(pair.reference(model) for pair in pairs)]))
    zeros = jax.tree.map(jnp.zeros_like, params)

    def draw(moments, step):
        key, count = step
        drawn = {
            pair: gradient(params, key, x, model=model, pair=pair, num_samples=num_samples)
            for pair in needed
        }
        updated = {}
        for pair, old in moments.items():
            difference = jax.tree.map(jnp.subtract, drawn[pair], drawn[pair.reference(model)])
            own = add_draw(count, old.mean, old.square, drawn[pair])
            paired = add_draw(count, old.difference_mean, old.difference_square, difference)
            updated[pair] = Moments(*own, *paired)
        return updated, None

    def block(key):
        size = num_draws // NUM_BLOCKS
        start = {pair: Moments(zeros, zeros, zeros, zeros) for pair in pairs}
        steps = (jax.random.split(key, size), jnp.arange(1, size + 1))
        return jax.lax.scan(draw, start, steps)[0]

    return jax.lax.map(block, jax.random.split(key, NUM_BLOCKS))


class Summary(NamedTuple):
    """What the draws say of one group of parameters (phi or theta).

    Attributes:
      snr: sqrt(sum_j E[g_j]^2 / sum_j Var g_j) over coordinates j; the squared mean is
        freed of the noise of its estimate.
      snr_se: its standard error, by the jackknife over blocks of draws.
      variance: sum_j Var g_j.
      bias_z: z-statistic of the paired difference to the reference, see `bias_statistic`;
        None for the reference itself.
      bias: norm of the mean difference, freed of noise, over that of the reference.
    """

    snr: float
    snr_se: float
    variance: float
    bias_z: float | None
    bias: float | None

    @property
    def biased(self) -> bool:
        """Whether the difference to the reference is beyond chance."""
        return self.bias_z is not None and self.bias_z > Z_LIMIT


def _flat(tree: PyTree) -> np.ndarray:
    """[R, J] in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _pool(means: np.ndarray, squares: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and variance [J] of all draws of R blocks of `size` draws, and their number."""
    mean, count = means.mean(axis=0), size * len(means)
    spread = squares.sum(axis=0) + size * np.square(means - mean).sum(axis=0)
    return mean, spread / (count - 1), count


def _signal(mean: np.ndarray, variance: np.ndarray, count: int) -> float:
    """Norm of the expectation, freed of what the noise of its estimate adds."""
    return float(np.sqrt(max(0.0, np.sum(mean**2) - np.sum(variance) / count)))


def _snr(means: np.ndarray, squares: np.ndarray, size: int) -> float:
    mean, variance, count = _pool(means, squares, size)
    noise = float(np.sqrt(variance.sum()))
    signal = _signal(mean, variance, count)
    return signal / noise if noise > 0.0 else float("inf") if signal else 0.0


def summarize(moments: Moments, *, reference: Moments | None, num_draws: int) -> dict[str, Summary]:
    """What `draw_moments` found, for phi and theta apart; `reference` None: it is its own."""
    size = num_draws // NUM_BLOCKS
    found = {}
    for name, group in GROUPS.items():
        means, squares = _flat(moments.mean[group]), _flat(moments.square[group])
        kept = ~np.eye(len(means), dtype=bool)
        parts = np.array([_snr(means[rows], squares[rows], size) for rows in kept])
        spread = np.sqrt((len(parts) - 1) * np.mean((parts - parts.mean()) ** 2))
        z = bias = None
        if reference is not None:
            z, bias = _bias(moments, reference, group, size)
        variance = float(_pool(means, squares, size)[1].sum())
        found[name] = Summary(_snr(means, squares, size), float(spread), variance, z, bias)
    return found


def bias_statistic(block_means: Float[np.ndarray, "R J"]) -> float:
    """z of E[difference] = 0 from the mean differences d_r of R independent blocks.

    Each d_r is projected on the mean of the other blocks, s_r = d_r . d_-r / |d_-r|: about
    the norm of the bias where there is one, and centred where there is none. Every pair of
    blocks enters two of the s_r, which doubles the variance of their mean:
    z = mean(s) / (sd(s) sqrt(2 / R)). One number for all coordinates, and no assumption
    that a coordinate is normal.
    """
    count = len(block_means)
    others = (block_means.sum(axis=0) - block_means) / (count - 1)
    norms = np.linalg.norm(others, axis=1)
    if not norms.all():
        return 0.0
    projected = np.sum(block_means * others, axis=1) / norms
    return float(projected.mean() / (projected.std(ddof=1) * np.sqrt(2.0 / count)))


def _bias(moments: Moments, reference: Moments, group: str, size: int) -> tuple[float, float]:
    means, squares = _flat(moments.difference_mean[group]), _flat(moments.difference_square[group])
    truth = _flat(reference.mean[group]), _flat(reference.square[group])
    noise = np.sqrt(_pool(*truth, size)[1].sum())
    if np.linalg.norm(means) <= 1e-5 * (noise + np.linalg.norm(truth[0])):
        return 0.0, 0.0  # the same gradient up to rounding
    signal = _signal(*_pool(*truth, size))
    return bias_statistic(means), _signal(*_pool(means, squares, size)) / max(signal, 1e-30)


def slope(num_samples: Sequence[int], snrs: Sequence[float]) -> float | None:
    """Exponent b of the least-squares fit snr = a K^b; None with fewer than two points."""
    points = [(k, snr) for k, snr in zip(num_samples, snrs, strict=True) if 0 < snr < np.inf]
    if len({k for k, _ in points}) < 2:
        return None
    logs = np.log(np.array(points))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def make_timed(
    params: Params, x: Float[Array, "E ..."], *, model: Model, pair: Pair, num_samples: int
) -> Callable[[PRNGKeyArray], Params]:
    """A compiled function from a key to one draw of one pair, for timing."""
    return jax.jit(
        lambda key: gradient(params, key, x, model=model, pair=pair, num_samples=num_samples)
    )
