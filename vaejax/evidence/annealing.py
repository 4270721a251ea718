"""Annealed importance sampling with HMC: the chains, forward and reverse, and their pilot.

The path is geometric: log f_b = (1 - b) log f_0 + b log p(x, z), from f_0 = q(z|x) or p(z)
at b = 0 to the posterior at b = 1. A scored chain uses temperatures, step sizes and masses
that were fixed before it began, by a pilot with keys of its own: its weights are unbiased
for p(x) (Neal 2001), which adapting inside the chain would cost.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax.evidence import paths
from vaejax.schema import field
from vaejax.types import Model, Params

if TYPE_CHECKING:  # importing blackjax starts JAX's backend: only for those who sample
    from blackjax.mcmc import hmc

_MASS_SAMPLES = 64
_STEP_JITTER = 0.25  # step sizes vary by this factor, so that no trajectory length resonates
_SIGMOID_RANGE = 4.0
_METRIC_FLOOR = 0.05
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an annealed estimate may cost."""

    start: Literal["posterior", "prior"] = field("posterior", "chains start at q(z|x) or p(z)")
    num_temperatures: int = field(500, "temperatures T after the first", low=1, high=_MOST)
    temperatures: Literal["linear", "sigmoid", "adaptive"] = field(
        "adaptive", "their spacing; adaptive: equal steps of the pilot's standard deviation"
    )
    num_chains: int = field(16, "independent chains per example", low=2, high=_MOST)
    num_leapfrog: int = field(5, "leapfrog steps per temperature", low=1, high=_MOST)
    target_acceptance: float = field(0.8, "acceptance the pilot aims at", low=0.1, below=1.0)
    pilot_examples: int = field(8, "examples the pilot runs on", low=1, high=_MOST)
    pilot_temperatures: int = field(20, "temperatures at which it tunes", low=2, high=_MOST)
    pilot_moves: int = field(30, "moves at each of them", low=2, high=_MOST)


class Schedule(NamedTuple):
    """What the pilot fixes.

    Attributes:
      temperatures: b_0 = 0 < ... < b_T = 1.
      step_sizes: of the move at b_1 .. b_T.
    """

    temperatures: Float[Array, "T1"]
    step_sizes: Float[Array, "T"]


class Path(NamedTuple):
    """Both ends of the path of one example, and the scales HMC uses there.

    Attributes:
      sample: `(key) -> z [Z]` from f_0.
      log_densities: `(z) -> (log f_0, log p(x, z))`, nats.
      base_variance: variance of f_0 per latent.
      target_variance: variance of q(z|x) per latent, standing for the posterior's.
    """

    sample: object
    log_densities: object
    base_variance: Float[Array, "Z"]
    target_variance: Float[Array, "Z"]


class Chain(NamedTuple):
    """One scored chain.

    Attributes:
      log_weight: log w, nats; E[w] = p(x) forward, E[1/w] = 1/p(x) reverse.
      acceptance: acceptance probability of the move at b_1 .. b_T.
      num_divergent: moves whose energy error was above 1000 or not a number.
    """

    log_weight: Float[Array, ""]
    acceptance: Float[Array, "T"]
    num_divergent: Int[Array, ""]


def make_path(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, start: str
) -> Path:
    """The path of one example; the scales are those of 64 samples drawn with `key`."""
    ends = paths.ends(params, x, model=model, start=start)
    keys = jax.random.split(key, _MASS_SAMPLES)
    variances = [
        jnp.var(jax.vmap(paths.draw(of))(keys), axis=0) + 1e-6 for of in (ends.base, ends.posterior)
    ]
    return Path(paths.draw(ends.base), ends.log_densities, *variances)


def log_density(path: Path, z: Float[Array, "Z"], temperature: Float[Array, ""]):
    """log f_b(z), nats, not normalised."""
    log_base, log_target = path.log_densities(z)
    return (1.0 - temperature) * log_base + temperature * log_target


def variance_at(path: Path, temperature: Float[Array, ""]) -> Float[Array, "Z"]:
    """The inverse mass at b: exact where both ends are normal with one mean."""
    precision = (1.0 - temperature) / path.base_variance + temperature / path.target_variance
    return 1.0 / precision


def at(path: Path, z: Float[Array, "Z"], temperature: Float[Array, ""]):
    """log p(x, z) - log f_0(z), and HMC's state for f_b, from one gradient evaluation."""
    from blackjax.mcmc import hmc

    (log_base, log_target), pull_back = jax.vjp(path.log_densities, z)
    one = jnp.ones_like(log_base)
    (gradient,) = pull_back(((1.0 - temperature) * one, temperature * one))
    log_value = (1.0 - temperature) * log_base + temperature * log_target
    return log_target - log_base, hmc.HMCState(z, log_value, gradient)


def move(
    key: PRNGKeyArray,
    state: "hmc.HMCState",
    path: Path,
    temperature: Float[Array, ""],
    step_size: Float[Array, ""],
    *,
    num_leapfrog: int,
) -> "tuple[hmc.HMCState, hmc.HMCInfo]":
    """One HMC move that leaves f_b unchanged: fresh momentum, jittered step, accept or stay."""
    from blackjax.mcmc import hmc

    jitter_key, move_key = jax.random.split(key)
    jitter = jax.random.uniform(jitter_key, (), minval=-_STEP_JITTER, maxval=_STEP_JITTER)
    return hmc.build_kernel()(
        move_key,
        state,
        lambda z: log_density(path, z, temperature),
        step_size * (1.0 + jitter),
        variance_at(path, temperature),
        num_leapfrog,
    )


def forward(key: PRNGKeyArray, path: Path, schedule: Schedule, *, num_leapfrog: int) -> Chain:
    """A chain from f_0 to the posterior: log w = sum_t (b_t - b_{t-1}) log(f_1/f_0)(z_{t-1}).

    Neal (2001), eq. 11: each term is taken before the move at b_t. E[w] = p(x), so
    log mean w is a lower bound on log p(x) in expectation.
    """
    start_key, moves_key = jax.random.split(key)

    def body(carry, step):
        z, log_weight = carry
        index, before, temperature, step_size = step
        log_ratio, state = at(path, z, temperature)
        log_weight += (temperature - before) * log_ratio
        move_key = jax.random.fold_in(moves_key, index)
        state, info = move(move_key, state, path, temperature, step_size, num_leapfrog=num_leapfrog)
        return (state.position, log_weight), (info.acceptance_rate, info.is_divergent)

    b = schedule.temperatures
    steps = (jnp.arange(b.shape[0] - 1), b[:-1], b[1:], schedule.step_sizes)
    start = (path.sample(start_key), jnp.zeros(()))
    (_, log_weight), (acceptance, divergent) = jax.lax.scan(body, start, steps)
    return Chain(log_weight, acceptance, jnp.sum(divergent))


def reverse(
    key: PRNGKeyArray,
    z: Float[Array, "Z"],
    path: Path,
    schedule: Schedule,
    *,
    num_leapfrog: int,
) -> Chain:
    """The forward chain run backwards from an exact posterior sample z.

    Moves at b_T, .., b_1, each followed by its term of log w. E[1/w] = 1/p(x), so
    -log mean(1/w) is an upper bound on log p(x) in expectation (Grosse, Ghahramani and
    Adams 2015, section 3). Only a z simulated together with x is an exact sample.
    """

    def body(carry, step):
        z, log_weight, pending = carry
        index, before, temperature, step_size = step
        log_ratio, state = at(path, z, temperature)
        log_weight += pending * log_ratio
        key_now = jax.random.fold_in(key, index)
        state, info = move(key_now, state, path, temperature, step_size, num_leapfrog=num_leapfrog)
        carry = state.position, log_weight, temperature - before
        return carry, (info.acceptance_rate, info.is_divergent)

    b = schedule.temperatures
    steps = (jnp.arange(b.shape[0] - 1), b[:-1], b[1:], schedule.step_sizes)
    start = (z, jnp.zeros(()), jnp.zeros(()))
    carry, (acceptance, divergent) = jax.lax.scan(body, start, steps, reverse=True)
    z, log_weight, pending = carry
    log_base, log_target = path.log_densities(z)
    log_weight += pending * (log_target - log_base)
    return Chain(log_weight, acceptance, jnp.sum(divergent))


def spacing(kind: str, num_temperatures: int) -> Float[Array, "T1"]:
    """b_0 = 0 .. b_T = 1, "linear" or "sigmoid" (Wu et al. 2017, appendix, with range 4)."""
    grid = jnp.linspace(0.0, 1.0, num_temperatures + 1)
    if kind == "linear":
        return grid
    curve = jax.nn.sigmoid(_SIGMOID_RANGE * (2.0 * grid - 1.0))
    return ((curve - curve[0]) / (curve[-1] - curve[0])).at[-1].set(1.0)


def equal_work(
    grid: Float[Array, "G"], deviation: Float[Array, "G"], *, num_temperatures: int
) -> Float[Array, "T1"]:
    """Temperatures with equal integrals of sd_b[log f_1/f_0] between them.

    The speed at which f_b changes (Gelman and Meng 1998, section 4.3); a floor keeps every
    stretch visited.
    """
    speed = deviation + _METRIC_FLOOR * jnp.mean(deviation) + 1e-6
    pieces = 0.5 * (speed[1:] + speed[:-1]) * jnp.diff(grid)
    length = jnp.concatenate([jnp.zeros(1), jnp.cumsum(pieces)])
    wanted = jnp.linspace(0.0, 1.0, num_temperatures + 1) * length[-1]
    return jnp.interp(wanted, length, grid).at[0].set(0.0).at[-1].set(1.0)


def pilot(
    params: Params, key: PRNGKeyArray, x: Float[Array, "P ..."], *, model: Model, budget: Budget
) -> Schedule:
    """Tunes the schedule on chains of its own: nothing of them enters a scored weight.

    Chains walk a coarse path; at each temperature the step size follows the acceptance
    (Robbins and Monro 1951) and settles at the average of the later moves.
    """
    paths_key, start_key, moves_key = jax.random.split(key, 3)
    num_chains, num_examples = budget.num_chains, x.shape[0]
    path_of = functools.partial(make_path, params, model=model, start=budget.start)
    path_keys = jax.random.split(paths_key, num_examples)
    start_keys = jax.random.split(start_key, (num_examples, num_chains))

    def sample_start(path_key, x, keys):
        return jax.vmap(path_of(path_key, x).sample)(keys)

    def move_chain(path_key, x, key, z, temperature, step_size):
        path = path_of(path_key, x)
        log_ratio, state = at(path, z, temperature)
        state, info = move(
            key, state, path, temperature, step_size, num_leapfrog=budget.num_leapfrog
        )
        return state.position, log_ratio, info.acceptance_rate

    over_chains = jax.vmap(move_chain, in_axes=(None, None, 0, 0, None, None))
    move_all = jax.vmap(over_chains, in_axes=(0, 0, 0, 0, None, None))

    def tune(carry, step):
        index, temperature = step

        def body(carry, count):
            z, log_step = carry
            key = jax.random.fold_in(jax.random.fold_in(moves_key, index), count)
            keys = jax.random.split(key, (num_examples, num_chains))
            z, log_ratio, acceptance = move_all(
                path_keys, x, keys, z, temperature, jnp.exp(log_step)
            )
            error = jnp.mean(acceptance) - budget.target_acceptance
            next_step = log_step + 2.0 * error / jnp.sqrt(1.0 + count)
            return (z, next_step), (log_step, jnp.mean(jnp.std(log_ratio, axis=1)))

        carry, (log_steps, deviation) = jax.lax.scan(body, carry, jnp.arange(budget.pilot_moves))
        later = budget.pilot_moves // 2
        return carry, (jnp.mean(log_steps[later:]), jnp.mean(deviation[later:]))

    z = jax.vmap(sample_start)(path_keys, x, start_keys)
    spaced = "linear" if budget.temperatures == "linear" else "sigmoid"
    grid = spacing(spaced, budget.pilot_temperatures - 1)
    first_step = jnp.log(0.5) - 0.25 * jnp.log(z.shape[-1])
    _, (log_steps, deviation) = jax.lax.scan(
        tune, (z, first_step), (jnp.arange(grid.shape[0]), grid)
    )
    if budget.temperatures == "adaptive":
        b = equal_work(grid, deviation, num_temperatures=budget.num_temperatures)
    else:
        b = spacing(budget.temperatures, budget.num_temperatures)
    return Schedule(b, jnp.exp(jnp.interp(b[1:], grid, log_steps)))
