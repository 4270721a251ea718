"""What a model draws: samples, reconstructions, ways between examples, one latent at a time.

Pictures are E[x|z], in [0, 1] whatever the units of x are. Latents of several stochastic layers
are counted as one vector [Z], those of the layer next to the data first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax.models import latents, supports, temperature
from vaejax.types import Latent, Model, Params, Support

_AT_ONCE = 64  # pictures in memory together
_QUANTILES = (0.01, 0.99)  # of the prior, between which a traversal goes
_NUM_PRIOR_DRAWS = 1000
_PARALLEL = 1e-4  # sine of the angle below which a great circle is a straight line


class Traversals(NamedTuple):
    """One picture for each value of each unit.

    Attributes:
      values: what the unit is set to.
      means: E[x|z] there.
    """

    values: Float[np.ndarray, "U S"]
    means: Float[np.ndarray, "U S ..."]


def _mean(params: Params, z: Latent, model: Model) -> Float[Array, "..."]:
    return model.intensities(model.likelihood(params, z).mean)


@functools.partial(jax.jit, static_argnames="model")
def from_prior(
    params: Params, keys: PRNGKeyArray, temperature_: Float[Array, ""], *, model: Model
) -> tuple[Float[Array, "N ..."], Float[Array, "N ..."]]:
    """E[x|z] and one x ~ p(x|z), both in [0, 1], for one z ~ p(z) at a temperature for each key.

    The temperature scales the noise of z alone, see `models.temperature`; x is drawn as the
    model says.
    """
    params = model.prepare(params)

    def draw(key):
        z_key, x_key = jax.random.split(key)
        z = temperature.tempered(model.prior(params), temperature_).sample(z_key)
        likelihood = model.likelihood(params, z)
        drawn = model.intensities(likelihood.sample(x_key))
        return model.intensities(likelihood.mean), drawn

    return jax.lax.map(draw, keys, batch_size=_AT_ONCE)


@functools.partial(jax.jit, static_argnames="model")
def reconstructions(
    params: Params, keys: PRNGKeyArray, x: Float[Array, "N ..."], *, model: Model
) -> Float[Array, "N ..."]:
    """E[x|z] with one z ~ q(z|x) for each example."""

    def one(pair):
        key, x = pair
        return _mean(params, model.posterior(params, x).sample(key), model)

    return jax.lax.map(one, (keys, x), batch_size=_AT_ONCE)


def between(
    start: Float[Array, "Z"], end: Float[Array, "Z"], share: Float[Array, ""]
) -> Float[Array, "Z"]:
    """The point at `share` in [0, 1] of the great circle from `start` to `end`, about 0.

    (sin((1 - t) a) start + sin(t a) end) / sin a with the angle a between them (Shoemake 1985,
    White 2016): on the way the length stays that of a sample, where a straight line passes
    near 0. Between parallel vectors, or from 0, it is the straight line.
    """
    lengths = jnp.sqrt(jnp.sum(start**2)) * jnp.sqrt(jnp.sum(end**2))
    cosine = jnp.sum(start * end) / jnp.where(lengths > 0.0, lengths, 1.0)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    is_straight = (jnp.sin(angle) < _PARALLEL) | (lengths == 0.0)
    sine = jnp.where(is_straight, 1.0, jnp.sin(angle))
    circle = (jnp.sin((1.0 - share) * angle) * start + jnp.sin(share * angle) * end) / sine
    return jnp.where(is_straight, (1.0 - share) * start + share * end, circle)


def _turn(size: int, support: Support) -> Float[np.ndarray, "Z"]:
    """At what share of the way each discrete latent changes; those of one choice together."""
    together = support.num_classes or 1
    count = size // together
    return np.repeat((np.arange(count) + 0.5) / count, together)


@functools.partial(jax.jit, static_argnames=("model", "num_steps"))
def interpolations(
    params: Params,
    keys: PRNGKeyArray,
    start: Float[Array, "N ..."],
    end: Float[Array, "N ..."],
    *,
    model: Model,
    num_steps: int,
) -> Float[Array, "N S ..."]:
    """E[x|z] on the way from a z ~ q(z|start) to a z ~ q(z|end), layer by layer, see `between`.

    Samples, because they lie where the decoder was trained, and every q has them; a flow has
    no mean. Discrete latents change from the one to the other one by one.
    """
    shares = jnp.linspace(0.0, 1.0, num_steps)

    def one(row):
        key, *ends = row
        sides = zip(ends, jax.random.split(key), strict=True)
        first, last = [model.posterior(params, x).sample(own) for x, own in sides]

        def layer(share, a, b):
            if model.support.is_discrete:
                return jnp.where(_turn(a.shape[0], model.support) < share, b, a)
            return between(a, b, share)

        def at(share):
            return _mean(params, jax.tree.map(functools.partial(layer, share), first, last), model)

        return jax.lax.map(at, shares, batch_size=_AT_ONCE)

    return jax.lax.map(one, (keys, start, end))


@functools.partial(jax.jit, static_argnames="model")
def unit_activity(
    params: Params, keys: PRNGKeyArray, x: Float[Array, "N ..."], *, model: Model
) -> Float[Array, "Z"]:
    """Var_x(E[z_u|x]) of each latent, estimated from two samples for each example.

    The covariance over x of two independent z ~ q(z|x): unbiased, and q needs no mean. An
    estimate below 0 is noise.
    """

    def two(pair):
        key, x = pair
        draw = lambda own: latents.sample_posterior(params, own, x, model=model)  # noqa: E731
        return jax.vmap(draw)(jax.random.split(key))

    z = jax.lax.map(two, (keys, x), batch_size=_AT_ONCE)
    centered = z - jnp.mean(z, axis=0, keepdims=True)
    return jnp.sum(centered[:, 0] * centered[:, 1], axis=0) / max(1, len(z) - 1)


@functools.partial(jax.jit, static_argnames=("model", "num_steps"))
def traversals(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    units: Int[Array, "U"],
    temperature_: Float[Array, ""],
    *,
    model: Model,
    num_steps: int,
) -> Traversals:
    """E[x|z] where one unit of a z ~ q(z|x) goes through its range, the others standing still.

    The range: `num_steps` values from the unit's 1% to its 99% quantile among 1,000 draws of the
    prior at the temperature. In a hierarchy the other layers stand still too. A discrete unit is 0
    on the lower half of it and 1 on the upper one.
    """
    z_key, prior_key = jax.random.split(key)
    params = model.prepare(params)
    prior = temperature.tempered(model.prior(params), temperature_)
    draw = lambda own: ravel_pytree(prior.sample(own))[0]  # noqa: E731
    draws = jax.lax.map(draw, jax.random.split(prior_key, _NUM_PRIOR_DRAWS), batch_size=_AT_ONCE)
    low, high = jnp.quantile(draws, jnp.asarray(_QUANTILES), axis=0)
    z = latents.sample_posterior(params, z_key, x, model=model)
    unravel = latents.unraveller(params, model=model)[1]
    values = jnp.linspace(low[units], high[units], num_steps, axis=1)

    def at(pair):
        unit, value = pair
        moved = supports.with_unit(model.support, z, unit, value)
        return _mean(params, unravel(moved), model)

    each = (jnp.repeat(units, num_steps), values.reshape(-1))
    means = jax.lax.map(at, each, batch_size=_AT_ONCE)
    return Traversals(values, means.reshape(*values.shape, *means.shape[1:]))
