"""Annealed importance sampling over discrete latents: chains that move by Gibbs sampling.

The path is that of `annealing`, log f_b = (1 - b) log f_0 + b log p(x, z). A move draws each latent
anew, one after another, given all others: exactly, since f_b is known at the few values it may
take. Nothing is tuned, so there is no pilot.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vaejax.models import supports
from vaejax.types import Support


class Path(NamedTuple):
    """Attributes:

    sample: `(key) -> z [Z]` from f_0.
    log_densities: `(z) -> (log f_0, log p(x, z))`, nats.
    support: which z there are.
    """

    sample: Callable[[PRNGKeyArray], Float[Array, "Z"]]
    log_densities: Callable
    support: Support


class Chain(NamedTuple):
    """One scored chain.

    Attributes:
      log_weight: log w, nats; E[w] = p(x).
      changed: share of the latents that a sweep at b_1 .. b_T changed.
    """

    log_weight: Float[Array, ""]
    changed: Float[Array, "T"]


class _State(NamedTuple):
    z: Float[Array, "Z"]
    log_base: Float[Array, ""]
    log_target: Float[Array, ""]


def _update(
    key: PRNGKeyArray,
    state: _State,
    path: Path,
    temperature: Float[Array, ""],
    group: Int[Array, ""],
) -> tuple[_State, Bool[Array, ""]]:
    """One latent, or choice of a class, anew from its conditional under f_b."""
    others = supports.others(path.support, state.z, group)
    z = jnp.concatenate([state.z[None], others])
    found = jax.vmap(path.log_densities)(others)
    log_base, log_target = (
        jnp.concatenate([own[None], new]) for own, new in zip(state[1:], found, strict=True)
    )
    logits = (1.0 - temperature) * log_base + temperature * log_target
    chosen = jax.random.categorical(key, logits)
    return _State(z[chosen], log_base[chosen], log_target[chosen]), chosen != 0


def sweep(
    key: PRNGKeyArray, state: _State, path: Path, temperature: Float[Array, ""], *, num_sweeps: int
) -> tuple[_State, Float[Array, ""]]:
    """Every latent anew, `num_sweeps` times over; leaves f_b unchanged."""
    num_groups = supports.num_groups(path.support, state.z.shape[0])

    def body(state, index):
        own = jax.random.fold_in(key, index)
        return _update(own, state, path, temperature, index % num_groups)

    state, changed = jax.lax.scan(body, state, jnp.arange(num_sweeps * num_groups))
    return state, jnp.mean(changed)


def forward(
    key: PRNGKeyArray, path: Path, temperatures: Float[Array, "T1"], *, num_sweeps: int
) -> Chain:
    """A chain from f_0 to the posterior: log w = sum_t (b_t - b_{t-1}) log(f_1/f_0)(z_{t-1}).

    Neal (2001), eq. 11: each term is taken before the sweep at b_t. E[w] = p(x), so log mean w is
    a lower bound on log p(x) in expectation.
    """
    start_key, moves_key = jax.random.split(key)
    z = path.sample(start_key)

    def body(carry, step):
        state, log_weight = carry
        index, before, temperature = step
        log_weight += (temperature - before) * (state.log_target - state.log_base)
        own = jax.random.fold_in(moves_key, index)
        state, changed = sweep(own, state, path, temperature, num_sweeps=num_sweeps)
        return (state, log_weight), changed

    start = _State(z, *path.log_densities(z))
    steps = (jnp.arange(temperatures.shape[0] - 1), temperatures[:-1], temperatures[1:])
    (_, log_weight), changed = jax.lax.scan(body, (start, jnp.zeros_like(start.log_base)), steps)
    return Chain(log_weight, changed)
