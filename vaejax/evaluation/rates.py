"""Rate and distortion, and the two parts of the rate (Hoffman and Johnson 2016, "ELBO surgery").

    E_x KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z)),     q(z) = E_x q(z|x).

With N examples and all of them in the mixture, q_N(z) = (1/N) sum_j q(z|x_j), the identity holds
for the distribution that picks one of the N: I_N <= log N, and both terms are unbiased. For the
distribution that x comes from I_N is a lower bound in expectation and KL(q_N || p) an upper one,
because q_N is fitted to the very examples. With (1/(N-1)) sum_{j != i} q(z|x_j) in the place of
q_N at draws from q(z|x_i) it is the other way round, by Jensen (Poole et al. 2019).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, PRNGKeyArray

from vaejax import schema
from vaejax.evaluation import mapping
from vaejax.evaluation.mapping import Budget, ExampleMap
from vaejax.models import distributions
from vaejax.schema import field
from vaejax.types import Model, Params

SHARE = 0.99
"""Of the rate: how few units carry it is said in one line."""


MOST_DENSITIES = 2**33
"""Log densities that one call may take, N^2 S; each step of a q that is slow there counts."""


@schema.register
@dataclasses.dataclass(frozen=True)
class Config:
    """What the parts of the rate may cost: N^2 S densities."""

    num_samples: int = field(4, "draws S of q(z|x) per example", low=2, high=2**31 - 1)
    num_examples: int | None = field(
        None, "first examples of the split that are used; none: all", low=2, high=2**31 - 1
    )


def problems(model: Model, *, num_examples: int, num_samples: int) -> list[str]:
    """Why these examples would take too long, one sentence with the nearest number that would not.

    Each draw's density is taken at every example. A top-down q runs its networks for each of the
    N^2 S pairs, and `iaf` inverts its layers there, one latent after another.
    """
    each = num_samples * model.density_steps
    if num_examples**2 * each <= MOST_DENSITIES:
        return []
    most, steps = math.isqrt(MOST_DENSITIES // each), model.density_steps
    slow = f" of {steps:,} network passes each" if steps > 1 else ""
    return [
        f"rates: {num_examples:,} examples with {num_samples:,} draws each need "
        f"{num_examples**2 * num_samples:,} densities{slow}, too many; at most {max(2, most):,} "
        f"examples: rates.num_examples={max(2, most)}"
    ]


class Draws(NamedTuple):
    """Log densities at S draws z_is ~ q(z|x_i) of each of N examples, nats, float64.

    Attributes:
      own: log q(z_is|x_i).
      prior: log p(z_is).
      others: log sum_{j != i} q(z_is|x_j); -inf for N = 1.
    """

    own: Float[np.ndarray, "N S"]
    prior: Float[np.ndarray, "N S"]
    others: Float[np.ndarray, "N S"]


class Part(NamedTuple):
    """What each example adds to one number, and the variance of its Monte-Carlo error; nats."""

    values: Float[np.ndarray, "N"]
    variances: Float[np.ndarray, "N"]


class Surgery(NamedTuple):
    """The parts of the rate; each pair adds up to it in every example.

    Attributes:
      mutual_information, marginal_kl: with all N examples in the mixture.
      mutual_information_left_out, marginal_kl_left_out: with all but the example itself.
    """

    mutual_information: Part
    marginal_kl: Part
    mutual_information_left_out: Part
    marginal_kl_left_out: Part


@functools.lru_cache(maxsize=32)
def make_draws(model: Model, *, num_examples: int, num_samples: int, chunk_size: int) -> ExampleMap:
    """The map to (z [S, ..], log q(z|x) [S], log p(z) [S]) of each example."""

    def draw(params, key, x):
        posterior, prior = model.posterior(params, x), model.prior(params)

        def one(index):
            own_key = jax.random.fold_in(key, index)
            z, own = distributions.sample_and_log_prob(posterior, own_key)
            return z, own, prior.log_prob(z)

        return jax.lax.map(one, jnp.arange(num_samples), batch_size=min(chunk_size, num_samples))

    budget = Budget(rows=min(chunk_size, num_samples), max_rows=chunk_size, work=num_samples)
    return mapping.make(draw, num_examples=num_examples, budget=budget, prepare=model.prepare)


@functools.lru_cache(maxsize=32)
def make_densities(
    model: Model, *, num_examples: int, num_draws: int, chunk_size: int
) -> ExampleMap:
    """The map to log q(z_n|x) [NS] of each example, at draws that come beside the parameters."""
    rows = min(chunk_size, num_draws)

    def densities(given, key, x):
        params, z = given
        return jax.lax.map(model.posterior(params, x).log_prob, z, batch_size=rows)

    budget = Budget(rows=rows, max_rows=chunk_size, work=num_draws)
    return mapping.make(densities, num_examples=num_examples, budget=budget)


@functools.lru_cache(maxsize=32)
def make_unit_rates(model: Model, *, num_examples: int, chunk_size: int) -> ExampleMap:
    """The map to `model.kl_groups`, which it must have."""
    budget = Budget(rows=1, max_rows=chunk_size, work=1)
    one = lambda params, key, x: model.kl_groups(params, x)  # noqa: E731
    return mapping.make(one, num_examples=num_examples, budget=budget, prepare=model.prepare)


def draws(
    params: Params,
    key: PRNGKeyArray,
    x: Num[np.ndarray, "N ..."],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
    done: Callable[[int], None] = lambda count: None,
) -> Draws:
    """S draws of each example, and the density of each at all examples: N^2 S densities.

    The sums over examples are taken in float64, in fixed memory; `done` hears of every call.
    """
    count = len(x)
    options = {"num_examples": count, "chunk_size": chunk_size}
    drawn = make_draws(model, num_samples=num_samples, **options)
    z, own, prior = mapping.over_examples(drawn, params, key, x)
    flat = jax.tree.map(lambda leaf: leaf.reshape(count * num_samples, *leaf.shape[2:]), z)
    at_all = make_densities(model, num_draws=count * num_samples, **options)
    most, total, first = np.full(count * num_samples, -np.inf), np.zeros(count * num_samples), 0
    for part in mapping.batches(at_all, (params, flat), key, x):
        part = np.array(part, np.float64)
        for row, index in enumerate(range(first, first + len(part))):
            part[row, index * num_samples : (index + 1) * num_samples] = -np.inf  # its own
        most, total = _added(most, total, part)
        first += len(part)
        done(first)
    with np.errstate(divide="ignore"):  # one example has no others
        others = most + np.log(total)
    wide = lambda values: np.asarray(values, np.float64)  # noqa: E731
    return Draws(wide(own), wide(prior), others.reshape(count, num_samples))


def _added(
    most: Float[np.ndarray, "M"], total: Float[np.ndarray, "M"], part: Float[np.ndarray, "E M"]
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """(most, total), which stand for log sum = most + log(total), with the rows of `part` added."""
    new = np.maximum(most, part.max(axis=0))
    safe = np.where(np.isfinite(new), new, 0.0)  # -inf where there is nothing yet
    return new, total * np.exp(most - safe) + np.exp(part - safe).sum(axis=0)


def surgery(drawn: Draws, rate: Part) -> Surgery:
    """The two parts of the rate, twice.

    log q(z|x) - log p(z) has the expectation `rate`, known in closed form or from many more
    samples: it is the control variate of both parts, with the slope that the draws themselves
    give (a bias of O(1/(NS)), far below the errors). What is estimated adds up to `rate` exactly.
    """
    count = len(drawn.own)
    ratio = drawn.own - drawn.prior
    inside = np.logaddexp(drawn.others, drawn.own) - math.log(count)
    outside = drawn.others - math.log(max(1, count - 1))
    found = []
    for aggregate in (inside, outside):
        found += [_controlled(drawn.own - aggregate, ratio, rate)]
        found += [_controlled(aggregate - drawn.prior, ratio, rate)]
    return Surgery(*found)


def _controlled(
    values: Float[np.ndarray, "N S"], control: Float[np.ndarray, "N S"], mean: Part
) -> Part:
    """mean_s[v_is] - b (mean_s[c_is] - E c_i) for each example, b from the spread within examples.

    The variances are the sample ones over S (NaN for S = 1), and what `mean` adds.
    """
    num_samples = values.shape[1]
    spread = control - control.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scale = np.sum(spread**2)
        slope = np.sum(spread * values) / scale if scale > 0.0 else 0.0
        left = values - slope * (control - mean.values[:, None])
        freedom = num_samples - 1
        variances = np.var(left, axis=1) / freedom if freedom else np.full(len(left), np.nan)
    return Part(left.mean(axis=1), variances + slope**2 * mean.variances)


def units_for(rates: Float[np.ndarray, "U"], share: float = SHARE) -> int:
    """How few units have together `share` of the whole rate; 0 where there is none."""
    rates = np.sort(np.maximum(np.asarray(rates, np.float64), 0.0))[::-1]
    if not rates.sum() > 0.0:
        return 0
    return int(np.searchsorted(np.cumsum(rates), share * rates.sum() * (1.0 - 1e-12)) + 1)
