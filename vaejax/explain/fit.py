"""Adam on any loss, keeping parameters along the way: for models that are no image model.

Image models train through `vaejax.training`; this serves one- and two-dimensional data,
exact objectives, float64, and training of one half of the parameters.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


def log_spaced(num_steps: int, num_records: int) -> tuple[int, ...]:
    """0 and at most `num_records` further steps up to `num_steps`, dense where it begins."""
    steps = np.geomspace(1, num_steps, num_records).round().astype(int)
    return tuple(sorted({0, *steps.tolist()}))


def adam(
    loss: Callable[[PyTree, PRNGKeyArray], Float[Array, ""]],
    params: PyTree,
    key: PRNGKeyArray,
    *,
    record_at: Sequence[int],
    learning_rate: float,
) -> PyTree:
    """Minimises `loss(params, key)`; the rate falls to zero along a cosine.

    Step s uses the key fold_in(key, s), so the path does not depend on `record_at`, only
    on its last entry, which is the number of steps.

    Args:
      record_at: rising step counts; 0 gives the parameters as they come.

    Returns:
      The parameters after each of those counts, leaves [R, ...].
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(1, record_at[-1])))

    @jax.jit
    def advance(carry, key, first, last):
        def step(index, carry):
            params, state = carry
            gradient = jax.grad(loss)(params, jax.random.fold_in(key, index))
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(first, last, step, carry)

    carry, done, kept = (params, optimizer.init(params)), 0, []
    for count in record_at:
        carry, done = advance(carry, key, done, count), count
        kept.append(carry[0])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)


def at(history: PyTree, index: int) -> PyTree:
    """The parameters of one record of `adam`."""
    return jax.tree.map(lambda leaf: leaf[index], history)
