"""The rate-distortion curve of one decoder, by AIS over its temperatures (Huang et al. 2020).

With the prior held fixed, the q of least rate KL(q || p(z)) at a distortion D = -E_q log p(x|z) is
p(z) p(x|z)^b / Z_b(x) for some b, at the rate R = -b D - log Z_b. One annealed chain from the prior
to b = 1 passes them all. There R + D = -log p(x).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import numerics
from vaejax.evidence import annealing
from vaejax.evidence.annealing import Path, Schedule
from vaejax.types import Model, Params


class Trace(NamedTuple):
    """What one chain says at b_1 .. b_T.

    Attributes:
      log_weights: log w_t, E[w_t] = Z_b(x), nats.
      log_likelihoods: log p(x|z_t) after the move at b_t.
    """

    log_weights: Float[Array, "*C T"]
    log_likelihoods: Float[Array, "*C T"]


class Curve(NamedTuple):
    """Rate and distortion of one example at b_1 .. b_T, nats; [N, T] once stacked.

    Chains resampled by their weights are a q of distortion E[D], whose rate is at most E[R]: in
    expectation the points lie on the curve or above it, however few the temperatures.
    """

    rate: Float[Array, "*N T"]
    distortion: Float[Array, "*N T"]


def trace(key: PRNGKeyArray, path: Path, schedule: Schedule, *, num_leapfrog: int) -> Trace:
    """A chain from the prior: `annealing.forward`, with all that it passes.

    `path` starts at the prior, so that log f_1/f_0 is log p(x|z).
    """
    start_key, moves_key = jax.random.split(key)

    def body(z, step):
        index, temperature, step_size = step
        log_likelihood, state = annealing.at(path, z, temperature)
        own_key = jax.random.fold_in(moves_key, index)
        state, _ = annealing.move(
            own_key, state, path, temperature, step_size, num_leapfrog=num_leapfrog
        )
        return state.position, log_likelihood

    b = schedule.temperatures
    steps = (jnp.arange(b.shape[0] - 1), b[1:], schedule.step_sizes)
    z, before = jax.lax.scan(body, path.sample(start_key), steps)
    log_base, log_joint = path.log_densities(z)
    after = jnp.concatenate([before[1:], (log_joint - log_base)[None]])
    return Trace(jnp.cumsum(jnp.diff(b) * before), after)


def curve(traces: Trace, temperatures: Float[Array, "T"]) -> Curve:
    """D = -sum_c w~_c log p(x|z_c) and R = -b D - log mean_c w_c over C chains, at each b.

    Args:
      traces: of C chains.
      temperatures: b_1 .. b_T.
    """
    log_mean = jax.vmap(numerics.logmeanexp, 1)(traces.log_weights)
    shares = jax.nn.softmax(traces.log_weights, axis=0)
    distortion = -jnp.sum(shares * traces.log_likelihoods, axis=0)
    return Curve(-temperatures * distortion - log_mean, distortion)


def estimate(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    schedule: Schedule,
    *,
    model: Model,
    budget: annealing.Budget,
) -> Curve:
    """The curve of one example from `budget.num_chains` chains of a schedule fixed before."""
    path_key, chains_key = jax.random.split(key)
    path = annealing.make_path(params, path_key, x, model=model, start="prior")
    run = functools.partial(trace, num_leapfrog=budget.num_leapfrog)
    keys = jax.random.split(chains_key, budget.num_chains)
    return curve(jax.vmap(lambda key: run(key, path, schedule))(keys), schedule.temperatures[1:])
