"""Gradients of any bound and estimator from one program per model.

Every estimator but `sleep_phi` and `closed_form_kl` is linear in the weights c, a and s of
`objectives.gradients`, and a bound enters through them alone. So the gradients of single weights
are drawn once for a model, and those of each bound and estimator are sums of them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vaejax.objectives import bounds, gradients, importance, surrogates
from vaejax.objectives.surrogates import Target


class Draws(NamedTuple):
    """N draws: log weights, and the gradient of each single weight, leaves [N, 3 K or 2 K, ..]."""

    log_weights: Float[Array, "N K"]
    parts: Any
    beta: float


def draw(params, keys, x, *, model, num_samples, beta=1.0, path=True) -> Draws:
    """`Draws` with these keys; without `path`, of weights c and s alone."""

    def gradient(key, single):
        c, s, *a = jnp.split(single, 3 if path else 2)
        surrogate = functools.partial(
            surrogates.weighted, weights=lambda *_, **__: (a[0] if path else None, s)
        )
        target = Target(lambda log_weights: c @ log_weights, num_samples, beta=beta)
        found, terms = jax.grad(
            lambda p: surrogate(p, key, x, model=model, target=target), has_aux=True
        )(params)
        return found, importance.log_weights(terms, beta=beta)

    def one(key):
        singles = jnp.eye((3 if path else 2) * num_samples)
        parts, log_weights = jax.vmap(functools.partial(gradient, key))(singles)
        return log_weights[0], parts

    return Draws(*jax.jit(jax.vmap(one))(keys), beta)


@functools.partial(jax.jit, static_argnames=("bound", "weights"))
def _coefficients(log_weights, beta, bound, weights):
    """c, s and a of each draw, side by side."""

    def one(log_weights):
        a, s = weights(log_weights, bound=bound, beta=beta)
        return jnp.concatenate([jax.grad(bound)(log_weights), s, *([] if a is None else [a])])

    return jax.vmap(one)(log_weights)


def gradient(draws: Draws, estimator: str, bound: str):
    """What the estimator gives for the bound on every draw, leaves [N, ..]."""
    function = gradients.GRADIENTS[estimator].surrogate
    weights = gradients.phi_weights.pathwise
    if estimator != "pathwise":
        weights = function.keywords["weights"]
    singles = _coefficients(draws.log_weights, draws.beta, bounds.FUNCTIONS[bound], weights)
    used = lambda leaf: leaf[:, : singles.shape[1]]
    return jax.tree.map(lambda leaf: jnp.einsum("nj,nj...->n...", singles, used(leaf)), draws.parts)


def flat(tree):
    """Leaves [N, ..] side by side in the order of `ravel_pytree`, [N, J]."""
    leaves = [np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves, axis=1)
