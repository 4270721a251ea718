"""Pathwise gradients that differentiate few of the K samples, drawn by what each adds."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax import keys
from vaejax.objectives import importance
from vaejax.objectives.surrogates import Target
from vaejax.types import LogTerms, Model, Params

_FLOOR = 1e-20  # of the largest share: above 0, so that kappa is, where few samples have one


def inclusion(shares: Float[Array, "K"], *, num_kept: int) -> Float[Array, "K"]:
    """pi_i = min(1, share_i / kappa), with the kappa for which they add up to R = `num_kept` < K.

    Of all ways to keep R of K samples with E[kept_i / pi_i] = 1, the one with the least
    sum_i share_i^2 / pi_i: Fearnhead and Clifford (2003), section 3. Whatever has more than its
    share of R is kept for certain, m samples; kappa is what is left, divided by R - m.
    """
    num_samples = shares.shape[0]
    shares = jnp.maximum(shares, _FLOOR * jnp.max(shares))
    ordered = jnp.sort(shares)
    certain = jnp.arange(num_kept)
    rest = num_samples - 1 - certain
    kappas = jnp.cumsum(ordered)[rest] / (num_kept - certain)
    return jnp.minimum(1.0, shares / kappas[jnp.argmax(ordered[rest] <= kappas)])


def systematic(
    probabilities: Float[Array, "K"], key: PRNGKeyArray, *, num_kept: int
) -> Int[Array, "R"]:
    """R = `num_kept` different positions, each with its probability; their sum must be R.

    One uniform number u: position i is taken if one of u, u + 1, .. lies on its piece of
    [0, R], which is no longer than 1.
    """
    ends = jnp.cumsum(probabilities)
    points = jax.random.uniform(key, dtype=ends.dtype) + jnp.arange(num_kept)
    found = jnp.sum(ends[None, :] <= points[:, None], axis=1)
    return jnp.minimum(found, probabilities.shape[0] - 1)


def resampled(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    target: Target,
    num_backward: int,
) -> tuple[Float[Array, ""], LogTerms]:
    """bound(log w_1..log w_K), in nats, with an unbiased estimate of its pathwise gradient.

    sum_i c_i d log w_i over all K samples becomes sum_i (c_i / pi_i) d log w_i over R =
    `num_backward` of them, drawn with the probabilities pi_i that are best for |c_i|. For L_K,
    where c = w~, R = 1 is the rule of Burda et al. (2016), section 3: K forward passes and one
    backward pass, with one sample drawn by w~. A step takes about K + 3 R forward passes instead
    of 3 K, since the R are run again to be differentiated.
    """
    frozen = jax.lax.stop_gradient(params)
    terms = importance.sample_log_terms(frozen, key, x, model=model, num_samples=target.num_samples)
    # Without the barrier XLA:CPU computes log p(x|z) again for each of its consumers.
    terms = jax.lax.optimization_barrier(terms)
    value, c = jax.value_and_grad(target.bound)(importance.log_weights(terms, beta=target.beta))
    pi = inclusion(jnp.abs(c), num_kept=num_backward)
    kept = systematic(pi, keys.within(key, "resampled/kept"), num_kept=num_backward)

    def again(sample_key):
        return importance.log_terms(params, sample_key, x, model=model)

    own = jax.vmap(again)(jax.random.split(key, target.num_samples)[kept])
    surrogate = (c / pi)[kept] @ importance.log_weights(own, beta=target.beta)
    return value + surrogate - jax.lax.stop_gradient(surrogate), terms
