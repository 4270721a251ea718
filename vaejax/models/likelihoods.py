"""p(x|z) given the decoder's output. To add one, write it and name it in `LIKELIHOODS`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax import numerics
from vaejax.types import Likelihood

_MEAN_CLIP = 1e-3  # Burda et al.'s code starts the decoder bias at logit(clip(mean))


def _bernoulli_bias(mean: Float[Array, "D"]) -> Float[Array, "D"]:
    clipped = jnp.clip(mean, _MEAN_CLIP, 1.0 - _MEAN_CLIP)
    return jnp.log(clipped) - jnp.log1p(-clipped)


def _bernoulli_sample(params: PyTree, key: PRNGKeyArray, logits: Float[Array, "D"]):
    draws = jax.random.bernoulli(key, jax.nn.sigmoid(logits))
    return draws.astype(logits.dtype)


BERNOULLI = Likelihood(
    init=dict,
    output_bias=_bernoulli_bias,
    log_prob=lambda params, logits, x: numerics.bernoulli_log_prob(logits, x),
    mean=lambda params, logits: jax.nn.sigmoid(logits),
    sample=_bernoulli_sample,
    binary=True,
)
"""Independent pixels in {0, 1}; the output is their logits."""


def _normal_init() -> PyTree:
    return {"log_scale": jnp.zeros(())}


def _normal_log_prob(params: PyTree, loc: Float[Array, "D"], x: Float[Array, "D"]):
    return jnp.sum(numerics.normal_log_prob(x, loc, params["log_scale"]))


def _normal_sample(params: PyTree, key: PRNGKeyArray, loc: Float[Array, "D"]):
    return loc + jnp.exp(params["log_scale"]) * jax.random.normal(key, loc.shape, loc.dtype)


NORMAL = Likelihood(
    init=_normal_init,
    output_bias=lambda mean: mean,
    log_prob=_normal_log_prob,
    mean=lambda params, loc: loc,
    sample=_normal_sample,
    binary=False,
)
"""Independent real values; the output is their mean, and one scale, shared by all of them,
is learned (a scale per pixel would make the likelihood of a constant pixel unbounded)."""


LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": BERNOULLI, "normal": NORMAL}
