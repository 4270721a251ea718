"""SUMO as an objective: theta follows an unbiased estimate of log p(x), phi lowers its variance."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax import keys
from vaejax.objectives import importance, roulette
from vaejax.objectives.roulette import Tail
from vaejax.objectives.surrogates import Target
from vaejax.types import LogTerms, Model, Params


class _Sum(NamedTuple):
    """One SUMO: its value, and what to add up for the gradients of theta and phi."""

    value: Float[Array, ""]
    of_theta: Float[Array, ""]
    of_phi: Float[Array, ""]
    terms: LogTerms


def _one(
    size: int,
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    length: Int[Array, ""],
    *,
    model: Model,
    target: Target,
    rule: Tail,
) -> _Sum:
    """One SUMO from `size` samples, of which it uses the first m + `length`."""
    first, frozen = target.num_samples, jax.lax.stop_gradient(params)

    def draw(number):
        z = model.posterior(params, x).sample(jax.random.fold_in(key, number))
        path = importance.log_terms_at(frozen, x, z, model=model)
        return path, importance.log_terms_at(params, x, jax.lax.stop_gradient(z), model=model)

    path, direct = jax.vmap(draw)(jnp.arange(size))
    log_weights = jax.lax.stop_gradient(importance.log_weights(direct, beta=target.beta))
    bound = functools.partial(roulette.estimate, length=length, rule=rule, first=first)
    value, c = jax.value_and_grad(bound)(log_weights)
    of_theta = c @ (direct.log_likelihood + target.beta * direct.log_prior)
    of_phi = c @ (
        importance.log_weights(path, beta=target.beta) - target.beta * direct.log_posterior
    )
    terms = jax.lax.stop_gradient(jax.tree.map(lambda term: term[:first], direct))
    return _Sum(value, of_theta, of_phi, terms)


def sumo(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    target: Target,
    steady: int,
    tail: float | Float[Array, ""],
) -> tuple[Float[Array, ""], LogTerms]:
    """An unbiased estimate of log p(x) for theta, in nats; phi lowers its variance.

    The mean of two independent SUMOs A and B, `roulette.estimate` with m = K of the target (Luo et
    al. 2020). No phi moves their mean, so phi follows -(A - B)^2 / 2, where each is a constant for
    the other: in expectation the gradient of minus the variance of one. The lengths kappa are drawn
    from `target.common_key`, the same for all examples of a batch: that is what makes short sums
    short for the device. Log densities are those of the first K samples.
    """
    rule, first = Tail(steady, tail), target.num_samples
    common = keys.within(key, "sumo/lengths") if target.common_key is None else target.common_key
    sizes = [first + extra for extra in roulette.EXTRA]
    branches = [
        functools.partial(_one, size, model=model, target=target, rule=rule) for size in sizes
    ]

    def one(pair):
        key, common = pair
        length = roulette.lengths(common, (), rule)
        which = jnp.searchsorted(jnp.asarray(sizes), first + length)
        return jax.lax.switch(which, branches, params, key, x, length)

    both = jax.lax.map(one, (jax.random.split(key), jax.random.split(common)))
    surrogate = jnp.mean(both.of_theta)
    surrogate -= jax.lax.stop_gradient(both.value[0] - both.value[1]) * (
        both.of_phi[0] - both.of_phi[1]
    )
    terms = jax.tree.map(lambda term: term[0], both.terms)
    return jnp.mean(both.value) + surrogate - jax.lax.stop_gradient(surrogate), terms
