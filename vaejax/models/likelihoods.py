"""p(x|z) given the decoder's output. To add one, write it and name it in `LIKELIHOODS`."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError
from vaejax.models import pixels, scales
from vaejax.models.distributions import Bernoulli
from vaejax.types import DataSpec, Distribution, unchanged

_LOG_SCALE_START = -1.0  # of a density: pixels lie in [0, 1]
_LEVEL_SCALE_START = -2.0  # of a logistic on [0, 1]; its standard deviation is 1.8 scales
_LEVEL_GAIN = math.exp(_LEVEL_SCALE_START)  # networks start about 1 from their bias: far too far
_SPREAD = 0.25  # of the components of a mixture around their middle, where they start
_MEAN_CLIP = 1e-3  # Burda et al.'s code starts the decoder bias at logit(clip(mean))
_REACH = 1.1 / _MEAN_CLIP  # logits beyond it give means outside of the clip


class Likelihood(NamedTuple):
    """p(x|z) as a function of the decoder's output, for one example.

    Attributes:
      outputs: shape of the output it wants of the decoder; what belongs to one pixel lies
        along the last axis.
      init: `(key) -> params` of its own, beside the decoder's output.
      output_bias: `(mean) -> outputs`, the decoder bias with which E[x|z] starts at `mean`.
      distribution: `(params, output) -> Distribution` of x.
      data: the values x may have: "binary", 0 or 1; "levels", whole numbers 0..L-1, of which
        it is a mass; or "real", of which it is a density.
      intensities: `(x) -> x in [0, 1]`, as networks and pictures have it.
      log_scale: `(params) -> []` where p(x|z) = N(x; output, exp(log_scale)^2 I); None where
        it is something else.
      output_gain: what the decoder's last kernel starts multiplied with, so that the outputs for
        random z are about one unit of p(x|z) away from `output_bias`: a logit, or a scale.
    """

    outputs: tuple[int, ...]
    init: Callable[[PRNGKeyArray], PyTree]
    output_bias: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    distribution: Callable[[PyTree, Float[Array, "..."]], Distribution]
    data: Literal["binary", "levels", "real"]
    intensities: Callable[[Float[Array, "..."]], Float[Array, "..."]] = unchanged
    log_scale: Callable[[PyTree], Float[Array, ""]] | None = None
    output_gain: float = 1.0


def _logit(mean: Float[Array, "..."]) -> Float[Array, "..."]:
    clipped = jnp.clip(mean, _MEAN_CLIP, 1.0 - _MEAN_CLIP)
    return jnp.log(clipped) - jnp.log1p(-clipped)


def bernoulli(spec: DataSpec) -> Likelihood:
    """Independent pixels in {0, 1}; the decoder gives their logits."""
    return Likelihood(
        outputs=spec.shape,
        init=lambda key: {},
        output_bias=_logit,
        distribution=lambda params, logits: Bernoulli(logits),
        data="binary",
    )


def continuous_bernoulli(spec: DataSpec) -> Likelihood:
    """Independent pixels in [0, 1] (Loaiza-Ganem and Cunningham 2019); the decoder gives logits."""

    def output_bias(mean):
        target = jnp.clip(mean, _MEAN_CLIP, 1.0 - _MEAN_CLIP)
        return pixels.solve_for_mean(pixels.continuous_bernoulli_mean, target, reach=_REACH)

    def distribution(params, logits):
        return pixels.Image(pixels.ContinuousBernoulli(logits.reshape(-1)), spec.shape)

    return Likelihood(spec.shape, lambda key: {}, output_bias, distribution, data="real")


def normal(spec: DataSpec, *, scale: str = "shared", min_scale: float = 0.0) -> Likelihood:
    """Independent real values, N(x; loc, (min_scale + exp(log_scale))^2).

    The decoder gives loc. One log_scale, `shared` by all pixels, is learned; with `pixel` one
    for each pixel is, and with `decoder` the decoder gives one for each. Those need a
    `min_scale`: the density of a pixel that never changes has no upper bound without it.

    Raises:
      UserError: an unknown scale, or a `min_scale` that is negative, or 0 with such a scale.
    """
    part = scales.of(scale, spec.shape, _LOG_SCALE_START)
    if min_scale < 0.0 or (min_scale == 0.0 and not part.shared):
        needed = "0 or more" if part.shared else "above 0, such as 0.01"
        raise UserError(
            f"normal: min_scale must be {needed} with scale={scale!r}, got {min_scale:g} (a pixel "
            f"that never changes has no upper bound of its density without a least scale)"
        )

    def log_scale(params):
        own = params["log_scale"]
        return own if min_scale == 0.0 else jnp.logaddexp(own, math.log(min_scale))

    def distribution(params, output):
        loc, log_scale = part.split(params, output)
        return pixels.Image(pixels.Normal(loc, min_scale + jnp.exp(log_scale)), spec.shape)

    return Likelihood(
        outputs=part.outputs,
        init=part.init,
        output_bias=part.bias,
        distribution=distribution,
        data="real",
        log_scale=log_scale if part.shared else None,
    )


def _of_levels(spec: DataSpec, outputs, init, output_bias, distribution) -> Likelihood:
    def intensities(x):
        return x / (spec.levels - 1.0)

    return Likelihood(outputs, init, output_bias, distribution, "levels", intensities)


def _target(mean: Float[Array, "..."], levels: int) -> Float[Array, "..."]:
    """The mean level, away from the ends, which no finite parameters reach."""
    return (levels - 1.0) * jnp.clip(mean / (levels - 1.0), _MEAN_CLIP, 1.0 - _MEAN_CLIP)


def discretized_logistic(spec: DataSpec, *, scale: str = "shared") -> Likelihood:
    """Independent levels, a logistic summed over the bin of each (Kingma et al. 2016).

    The decoder gives its location on the unit interval, less 1/2; `scale` as in `normal`.
    Being a mass, it is at most 1: no scale needs a floor.

    Raises:
      UserError: an unknown scale.
    """
    part = scales.of(scale, spec.shape, _LEVEL_SCALE_START)

    def output_bias(mean):
        start = jnp.asarray(_LEVEL_SCALE_START)
        mean_of = lambda loc: pixels.mean_level(loc, start, levels=spec.levels)  # noqa: E731
        loc = pixels.solve_for_mean(mean_of, _target(mean, spec.levels), reach=4.0)
        return part.bias(loc - 0.5)

    def distribution(params, output):
        loc, log_scale = part.split(params, output)
        flat = pixels.DiscretizedLogistic(loc + 0.5, log_scale, spec.levels)
        return pixels.Image(flat, spec.shape)

    made = _of_levels(spec, part.outputs, part.init, output_bias, distribution)
    return made._replace(output_gain=_LEVEL_GAIN)


def discretized_logistic_mixture(spec: DataSpec, *, num_components: int = 5) -> Likelihood:
    """Independent pixels, each a mixture of logistics over levels, as in PixelCNN++.

    Salimans et al. (2017), section 2.1 and 2.2. With three channels green depends on red, and
    blue on both; with one channel it is a plain mixture. The decoder gives for each pixel M
    logits, and for each channel M locations less 1/2, M log_scales and, of three channels, 3 M
    coefficients (of which it takes the tanh).

    Raises:
      UserError: neither one nor three channels, or fewer than one component.
    """
    num_channels, count, where = spec.shape[-1], num_components, "discretized_logistic_mixture"
    if len(spec.shape) != 3 or num_channels not in (1, 3):
        raise UserError(f"{where}: needs images [H, W, C] of 1 or 3 channels, got {spec.shape}")
    if not 1 <= count <= 1000:
        raise UserError(f"{where}: num_components must be in 1..1000, got {num_components}")
    pairs = num_channels * (num_channels - 1) // 2
    sizes = (count, num_channels * count, num_channels * count, pairs * count)
    offsets = np.linspace(-_SPREAD, _SPREAD, count) if count > 1 else np.zeros(1)

    def output_bias(mean):
        start = jnp.asarray(_LEVEL_SCALE_START)
        target = jnp.moveaxis(_target(mean, spec.levels), -1, 0).reshape(num_channels, 1, -1)

        def every(middle):
            return middle + jnp.asarray(offsets, middle.dtype)[None, :, None]

        def mean_of(middle):
            means = pixels.mean_level(every(middle), start, levels=spec.levels)
            return means.mean(axis=1, keepdims=True)

        loc = every(pixels.solve_for_mean(mean_of, target, reach=4.0) - 0.5)
        rest = jnp.zeros((sizes[2] + sizes[3], loc.shape[-1]), loc.dtype)
        rows = jnp.concatenate([jnp.zeros_like(loc[0]), loc.reshape(sizes[1], -1), rest])
        return rows.T.reshape(*spec.shape[:-1], -1)

    def distribution(params, output):
        # Pixels last: sums over components and channels then run over whole rows.
        rows = output.reshape(-1, sum(sizes)).T
        ends = np.cumsum(sizes)[:-1].tolist()
        parts = [part.reshape(-1, count, rows.shape[1]) for part in jnp.split(rows, ends)]
        logits, loc, log_scale, coefficients = parts
        flat = pixels.DiscretizedLogisticMixture(
            logits[0],
            loc + 0.5,
            log_scale + _LEVEL_SCALE_START,
            jnp.tanh(coefficients),
            spec.levels,
        )
        return pixels.Image(flat, spec.shape)

    outputs = (*spec.shape[:-1], sum(sizes))
    made = _of_levels(spec, outputs, lambda key: {}, output_bias, distribution)
    return made._replace(output_gain=_LEVEL_GAIN)


def categorical(spec: DataSpec) -> Likelihood:
    """Independent levels with a logit each; the decoder gives L logits for every value of x.

    It starts at the distribution of most entropy that has the mean, P(j) proportional to exp(t j).
    """
    levels = spec.levels

    def tilted(slope):
        return slope[..., None] * jnp.linspace(-0.5, 0.5, levels).reshape((1,) * slope.ndim + (-1,))

    def output_bias(mean):
        mean_of = lambda slope: pixels.Categorical(tilted(slope)).mean  # noqa: E731
        target = _target(mean, levels)
        slope = pixels.solve_for_mean(mean_of, target.reshape(-1), reach=_REACH)
        return tilted(slope).reshape(*spec.shape[:-1], -1)

    def distribution(params, output):
        return pixels.Image(pixels.Categorical(output.reshape(-1, levels)), spec.shape)

    outputs = (*spec.shape[:-1], spec.shape[-1] * levels)
    return _of_levels(spec, outputs, lambda key: {}, output_bias, distribution)


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "normal": normal,
    "discretized_logistic": discretized_logistic,
    "discretized_logistic_mixture": discretized_logistic_mixture,
    "categorical": categorical,
}
