"""SUMO: an unbiased estimate of log p(x), from a sum of differences cut at a random length.

    SUMO = L_1 + sum_{k=1}^kappa (L_{k+1} - L_k) / P(kappa >= k),    E[SUMO] = lim_K E[L_K]

with L_k of the first k of kappa + 1 samples of q(z|x) (Luo et al. 2020, eq. 5 to 7): the sum goes
on for ever in expectation, and stops soon in fact. Unbiased says nothing of its spread. The
differences fall as 1/k, their squares as 1/k^2, and no rule makes cost and variance finite at
once: P(kappa >= k) = 1/k as far as `steady`, then a geometric tail, which keeps the cost finite and
makes the rare long sums heavy. What came of that is reported.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure

from vaejax import numerics
from vaejax.evidence import diagnostics, pareto
from vaejax.evidence.diagnostics import Watched
from vaejax.objectives import importance, roulette
from vaejax.objectives.roulette import Tail
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

LABELS = {"sumo": "estimate"}
JUDGE = None
REPORT = "rows"
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Budget, and the rule of the tail."""

    num_repeats: int = field(200, "independent SUMOs per example", low=2, high=_MOST)
    steady: int = field(80, "P(kappa >= k) = 1/k up to this k", low=1, high=2**20)
    tail: float = field(0.9, "beyond it P falls by this factor a sample; below 1", low=0.0)
    chunk_size: int = field(64, "samples of z in memory at once", low=1, high=_MOST)


class Diagnostics(NamedTuple):
    """Attributes:

    num_drawn: samples of z that all repeats took.
    standard_deviation: of one SUMO, nats.
    largest_share: share of the squared deviations of all repeats that one of them has.
    pareto_k: k-hat of the absolute deviations: their variance is finite below 1/2.
    """

    num_drawn: Int[Array, "*N"]
    standard_deviation: Float[Array, "*N"]
    largest_share: Float[Array, "*N"]
    pareto_k: Float[Array, "*N"]

    def watched(self) -> Watched:
        """Means over examples."""
        return Watched({}, {name: float(np.mean(getattr(self, name))) for name in self._fields})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Works for every model, with a tail that has an end."""
    why = roulette.refusal(config.tail)
    if why is None:
        return []
    return [f"sumo: evidence.sumo.tail={config.tail:g} {why}; use one in (0, 1), such as 0.9"]


def rule(config: Config) -> Tail:
    """Of the lengths."""
    return Tail(config.steady, config.tail)


def expected_samples(config: Config) -> float:
    """E[kappa] + 1, the samples that one SUMO takes on average."""
    return 1.0 + roulette.expected_length(rule(config))


class _Sum(NamedTuple):
    """Where the stream of samples stands; the repeats take from it one after another."""

    repeat: Int[Array, ""]
    taken: Int[Array, ""]
    log_sum: Float[Array, ""]
    value: Float[Array, ""]
    values: Float[Array, "R"]


def _take(state: _Sum, log_weight: Float[Array, ""], lengths: Int[Array, "R"], config: Config):
    """One more sample for the repeat whose turn it is.

    L_{k+1} - L_k = log(1 + w/S_k) - log(1 + 1/k) with S_k the sum of k weights: no digits are
    lost to the difference of two logs, which is divided by a small probability.
    """
    k = jnp.maximum(state.taken, 1)
    step = numerics.softplus(log_weight - state.log_sum) - jnp.log1p(1.0 / k)
    first = state.taken == 0
    value = jnp.where(first, log_weight, state.value + step / roulette.survival(k, rule(config)))
    log_sum = jnp.where(first, log_weight, jnp.logaddexp(state.log_sum, log_weight))
    done = state.taken == lengths[jnp.minimum(state.repeat, config.num_repeats - 1)]
    # A repeat beyond the last one is dropped by `at`.
    values = state.values.at[state.repeat].set(
        jnp.where(done, value, 0.0).astype(state.values.dtype), mode="drop"
    )
    return _Sum(state.repeat + done, jnp.where(done, 0, state.taken + 1), log_sum, value, values)


def draws(
    params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, config: Config
) -> tuple[Float[Array, "R"], Int[Array, "R"]]:
    """R independent SUMOs of one example, in nats, and their kappas."""
    length_key, sample_key = jax.random.split(key)
    lengths = roulette.lengths(length_key, (config.num_repeats,), rule(config))

    def log_weight(number):
        own = jax.random.fold_in(sample_key, number)
        return importance.log_weights(importance.log_terms(params, own, x, model=model))

    def chunk(carry):
        number, state = carry
        log_weights = jax.vmap(log_weight)(number + jnp.arange(config.chunk_size))
        take = lambda state, w: (_take(state, w, lengths, config), None)  # noqa: E731
        return number + config.chunk_size, jax.lax.scan(take, state, log_weights)[0]

    kind = jax.eval_shape(log_weight, 0).dtype
    zero = jnp.zeros((), kind)
    counter = jnp.zeros((), lengths.dtype)
    start = _Sum(counter, counter, zero, zero, jnp.zeros(config.num_repeats, kind))
    unfinished = lambda carry: carry[1].repeat < config.num_repeats  # noqa: E731
    return jax.lax.while_loop(unfinished, chunk, (counter, start))[1].values, lengths


def build(config: Config, *, model: Model) -> Estimator:
    """The mean of R SUMOs. Their deviations have a heavy tail: an example is flagged where k-hat
    says that the error of the mean cannot be told from them.
    """

    def estimate(params, key, x, tuning):
        values, lengths = draws(params, key, x, model=model, config=config)
        squares = jnp.square(values - jnp.mean(values))
        spread = jnp.maximum(jnp.max(squares), jnp.finfo(values.dtype).tiny)
        k_hat = pareto.k_hat(0.5 * jnp.log(squares / spread + jnp.finfo(values.dtype).tiny))
        watched = Diagnostics(
            jnp.sum(lengths + 1),
            jnp.std(values, ddof=1),
            jnp.max(squares) / jnp.maximum(jnp.sum(squares), jnp.finfo(values.dtype).tiny),
            k_hat,
        )
        trusted = k_hat <= pareto.threshold(config.num_repeats)
        variance = diagnostics.mean_variance(values)
        return {"sumo": Evidence(jnp.mean(values), variance, trusted, watched)}

    work = int(config.num_repeats * expected_samples(config))
    return Estimator(lambda params, key, x: (), estimate, rows=config.chunk_size, work=work)


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """None."""
    return {}
