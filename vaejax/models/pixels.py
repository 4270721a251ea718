"""Distributions of the pixels of one image x, given what a decoder says of each of them.

Values of a pixel are real, in [0, 1], or whole numbers 0..L-1 (grey or colour levels). A logistic
over levels lives on the unit interval, where level j has the bin [j / L, (j + 1) / L); the first
and the last bin are open, so that the masses of all levels sum to one.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import numerics
from vaejax.types import Distribution

_NEAR_ZERO = 1.0  # of a logit: below, these series are exact; above, the formulas are
_LOG_SINH_RATIO = (1 / 467775, -1 / 37800, 1 / 2835, -1 / 180, 1 / 6)
_HALF_COTH = (1 / 93555, -1 / 9450, 1 / 945, -1 / 90, 1 / 6)
_LOG_SCALE_LIMIT = 10.0  # beyond, one bin or one edge of the interval holds all the mass


@dataclasses.dataclass(frozen=True)
class Image:
    """A distribution of D numbers as one of an image of `shape`.

    Sums run over flat values: over the two small axes of an image XLA:CPU reduces ten times
    slower.
    """

    flat: Distribution
    shape: tuple[int, ...]

    @property
    def mean(self) -> Float[Array, "..."]:
        """E[x], in units of x."""
        return self.flat.mean.reshape(self.shape)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """One image."""
        return self.flat.sample(key).reshape(self.shape)

    def log_prob(self, value: Float[Array, "..."]) -> Float[Array, ""]:
        """Of the whole image, in nats."""
        return self.flat.log_prob(value.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Normal:
    """Independent N(loc_d, scale_d^2); one scale may serve all."""

    loc: Float[Array, "D"]
    scale: Float[Array, "D"] | Float[Array, ""]

    @property
    def mean(self) -> Float[Array, "D"]:
        """loc."""
        return self.loc

    def sample(self, key: PRNGKeyArray) -> Float[Array, "D"]:
        """loc + scale times standard normal noise."""
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def log_prob(self, value: Float[Array, "D"]) -> Float[Array, ""]:
        """sum_d -1/2 ((x_d - loc_d) / scale_d)^2 - log scale_d - 1/2 log 2 pi, in nats."""
        scaled = (value - self.loc) / self.scale
        each = -0.5 * (jnp.square(scaled) + numerics.LOG_TWO_PI) - jnp.log(self.scale)
        return jnp.sum(each)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli:
    """Independent x_d in [0, 1] with density exp(l_d x_d) / Z(l_d), Z(l) = (exp(l) - 1) / l.

    Loaiza-Ganem and Cunningham (2019): the Bernoulli's formula with the constant that makes it
    a density. With y = l / 2, log Z = y + log(sinh(y) / y), of which the second part is a series
    near 0, where the formula would divide 0 by 0.
    """

    logits: Float[Array, "D"]

    @property
    def mean(self) -> Float[Array, "D"]:
        """dlog Z / dl = 1 / (1 - exp(-l)) - 1 / l."""
        return continuous_bernoulli_mean(self.logits)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "D"]:
        """By the inverse of the distribution function, log(1 + u (exp(l) - 1)) / l."""
        uniform = jax.random.uniform(key, self.logits.shape, self.logits.dtype)
        rate = -jnp.abs(self.logits)
        is_near = rate > -1e-3
        safe = jnp.where(is_near, -1.0, rate)
        far = jnp.log1p(uniform * jnp.expm1(safe)) / safe
        below = jnp.where(is_near, uniform * (1.0 + 0.5 * rate * (1.0 - uniform)), far)
        return jnp.where(self.logits > 0.0, 1.0 - below, below)

    def log_prob(self, value: Float[Array, "D"]) -> Float[Array, ""]:
        """sum_d l_d x_d - log Z(l_d), in nats."""
        is_near = jnp.abs(self.logits) < _NEAR_ZERO
        small = jnp.where(is_near, self.logits, 0.0)
        square = jnp.square(0.5 * small)
        ratio = square * jnp.polyval(jnp.asarray(_LOG_SINH_RATIO, small.dtype), square)
        near = (value - 0.5) * small - ratio
        large = jnp.where(is_near, 1.0, self.logits)
        size = jnp.abs(large)
        far = value * large - jnp.maximum(large, 0.0) + jnp.log(size) - jnp.log(-jnp.expm1(-size))
        return jnp.sum(jnp.where(is_near, near, far))


def continuous_bernoulli_mean(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """E[x] of each pixel: 1/2 + (coth(y) - 1 / y) / 2 with y = l / 2, a series near 0."""
    y = 0.5 * logits
    is_near = jnp.abs(y) < 0.5 * _NEAR_ZERO
    small = jnp.where(is_near, y, 0.0)
    series = jnp.polyval(jnp.asarray(_HALF_COTH, y.dtype), jnp.square(small))
    near = 0.5 + small * series
    size = jnp.abs(jnp.where(is_near, 1.0, y))
    decay = jnp.exp(-2.0 * size)
    far = 0.5 + jnp.sign(y) * (0.5 + decay / (1.0 - decay) - 0.5 / size)
    return jnp.where(is_near, near, far)


def log_level_mass(
    value: Float[Array, "..."],
    loc: Float[Array, "..."],
    log_scale: Float[Array, "..."],
    *,
    levels: int,
) -> Float[Array, "..."]:
    """log of sigmoid(b) - sigmoid(a), the mass of a logistic in the bin of each level, in nats.

    a and b are the bin's edges, (edge - loc) / scale; b = a + d. The difference is written
    sigmoid(b) sigmoid(-a) (1 - exp(-d)), which is exact however far in a tail the bin lies.
    """
    inverse_scale = jnp.exp(-jnp.clip(log_scale, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT))
    width = inverse_scale / levels
    lower = (value / levels - loc) * inverse_scale
    is_first, is_last = value <= 0.0, value >= levels - 1.0
    above_lower = jnp.where(is_first, 0.0, numerics.softplus(lower))
    below_upper = jnp.where(is_last, 0.0, numerics.softplus(-(lower + width)))
    both = jnp.where(is_first | is_last, 0.0, jnp.log(-jnp.expm1(-width)))
    return both - above_lower - below_upper


def mean_level(
    loc: Float[Array, "..."], log_scale: Float[Array, "..."], *, levels: int
) -> Float[Array, "..."]:
    """E[x] = sum_{j=1}^{L-1} P(x >= j) of each pixel, one level after another."""
    inverse_scale = jnp.exp(-jnp.clip(log_scale, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT))

    def add(level, total):
        return total + jax.nn.sigmoid((loc - level / levels) * inverse_scale)

    return jax.lax.fori_loop(1, levels, add, jnp.zeros_like(loc))


def _sample_level(key, loc, log_scale, *, levels: int):
    noise = jax.random.logistic(key, loc.shape, loc.dtype)
    scale = jnp.exp(jnp.clip(log_scale, -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT))
    return jnp.clip(jnp.floor((loc + scale * noise) * levels), 0.0, levels - 1.0)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic:
    """Independent levels 0..L-1: a logistic of loc_d and scale_d, summed over each bin.

    Kingma et al. (2016); one scale may serve all pixels.
    """

    loc: Float[Array, "D"]
    log_scale: Float[Array, "D"] | Float[Array, ""]
    levels: int

    @property
    def mean(self) -> Float[Array, "D"]:
        """E[x_d], in levels."""
        return mean_level(self.loc, self.log_scale, levels=self.levels)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "D"]:
        """Whole numbers 0..L-1."""
        return _sample_level(key, self.loc, self.log_scale, levels=self.levels)

    def log_prob(self, value: Float[Array, "D"]) -> Float[Array, ""]:
        """Summed over pixels, in nats."""
        return jnp.sum(log_level_mass(value, self.loc, self.log_scale, levels=self.levels))


@dataclasses.dataclass(frozen=True)
class DiscretizedLogisticMixture:
    """Independent pixels, each a mixture of M discretised logistics over all its channels.

    Salimans et al. (2017), section 2.1 and 2.2: one component serves all channels of a pixel,
    and in it the location of green depends linearly on red, that of blue on red and green:
    loc_c + sum_{b<c} k_cb (x_b's place in [0, 1] - 1/2).

    Attributes:
      logits: of the components.
      loc, log_scale: of each channel in each component, on the unit interval.
      coefficients: k, for (green, red), (blue, red), (blue, green); none for one channel.
      levels: L.
    """

    logits: Float[Array, "M P"]
    loc: Float[Array, "C M P"]
    log_scale: Float[Array, "C M P"]
    coefficients: Float[Array, "R M P"]
    levels: int

    def _shifted(self, channel: int, before: list[Array]) -> Float[Array, "M P"]:
        """The locations of a channel given the centred values [M, P] of those before it."""
        first = channel * (channel - 1) // 2
        return self.loc[channel] + sum(
            self.coefficients[first + index] * value for index, value in enumerate(before)
        )

    def _centred(self, levels: Float[Array, "..."]) -> Float[Array, "..."]:
        return (levels + 0.5) / self.levels - 0.5

    @property
    def mean(self) -> Float[Array, "D"]:
        """E[x], in levels.

        Exact for one channel, and for red. For green and blue the channels before are put at
        their means within each component, which is exact but for the open bins at the edges.
        """
        shares = jax.nn.softmax(self.logits, axis=0)
        found, before = [], []
        for channel in range(len(self.loc)):
            loc = self._shifted(channel, before)
            mean = mean_level(loc, self.log_scale[channel], levels=self.levels)
            before.append(self._centred(mean))
            found.append(jnp.sum(shares * mean, axis=0))
        return jnp.stack(found, axis=-1).reshape(-1)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "D"]:
        """A component for each pixel, then its channels one after another."""
        keys = jax.random.split(key, 1 + len(self.loc))
        component = jax.random.categorical(keys[0], self.logits, axis=0)[None, :]
        pick = lambda values: jnp.take_along_axis(values, component, axis=0)  # noqa: E731
        found, before = [], []
        for channel, channel_key in enumerate(keys[1:]):
            loc, log_scale = pick(self._shifted(channel, before)), pick(self.log_scale[channel])
            found.append(_sample_level(channel_key, loc, log_scale, levels=self.levels)[0])
            before.append(self._centred(found[-1])[None, :])
        return jnp.stack(found, axis=-1).reshape(-1)

    def log_prob(self, value: Float[Array, "D"]) -> Float[Array, ""]:
        """sum over pixels of logsumexp_m (log share_m + sum_c log P_m(x_c | x_b, b < c)), nats."""
        channels = value.reshape(-1, len(self.loc)).T[:, None, :]
        joint, before = self.logits, []
        for channel, own in enumerate(channels):
            loc = self._shifted(channel, before)
            joint += log_level_mass(own, loc, self.log_scale[channel], levels=self.levels)
            before.append(self._centred(own))
        each = jax.nn.logsumexp(joint, axis=0) - jax.nn.logsumexp(self.logits, axis=0)
        return jnp.sum(each)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Independent levels 0..L-1 with a logit for each, P(x_d = j) = softmax(logits_d)_j."""

    logits: Float[Array, "D L"]

    @property
    def mean(self) -> Float[Array, "D"]:
        """sum_j j P(x_d = j), in levels."""
        levels = jnp.arange(self.logits.shape[1], dtype=self.logits.dtype)
        return jax.nn.softmax(self.logits) @ levels

    def sample(self, key: PRNGKeyArray) -> Float[Array, "D"]:
        """Whole numbers 0..L-1."""
        return jax.random.categorical(key, self.logits).astype(self.logits.dtype)

    def log_prob(self, value: Float[Array, "D"]) -> Float[Array, ""]:
        """Summed over pixels, in nats."""
        levels = jnp.arange(self.logits.shape[1], dtype=value.dtype)
        chosen = jnp.where(value[:, None] == levels[None, :], self.logits, 0.0)
        return jnp.sum(chosen) - jnp.sum(jax.nn.logsumexp(self.logits, axis=1))


def solve_for_mean(mean_of, target: Float[Array, "..."], *, reach: float) -> Float[Array, "..."]:
    """The argument in [-reach, reach] at which a rising `mean_of` is `target`, by bisection."""
    steps = math.ceil(math.log2(reach)) + 26  # down to what float32 can tell apart

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        is_below = mean_of(middle) < target
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    low = jnp.full_like(target, -reach)
    low, high = jax.lax.fori_loop(0, steps, halve, (low, -low))
    return 0.5 * (low + high)
