"""What phi follows, as two weights per sample: rows of the table that `gradients` is about.

Each function gives (a [K], s [K]) for K log weights, a on the path through z_i, s on
d log q(z_i|x) / d phi with z_i held still; a None: nothing follows the path, which z need not
have. `bound` is what phi is to raise, `beta` that of the log weights: log w = .. - beta log q.

Without a path, with f the bound and c_i = d f / d log w_i,

    s_i = f(log w) - b_i - beta c_i

for any baseline b_i that does not depend on z_i: E[b_i d log q(z_i|x) / d phi] = 0. The last term
is the derivative of log w_i in phi where it stands in it. Baselines say how large the variance is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax import numerics

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]
Weights = tuple[Float[Array, "K"] | None, Float[Array, "K"]]
_ROWS = 64  # samples whose row of K numbers is in memory at once


def diagonal_hessian(function: Bound, log_weights: Float[Array, "K"]) -> Float[Array, "K"]:
    """h_i = d^2 function / d log w_i^2, by forward over reverse differentiation."""
    num_samples = log_weights.shape[0]

    def row(index):
        direction = jax.nn.one_hot(index, num_samples, dtype=log_weights.dtype)
        return jax.jvp(jax.grad(function), (log_weights,), (direction,))[1][index]

    return _over_samples(row, num_samples)


def _over_samples(row: Callable, num_samples: int) -> Float[Array, "K"]:
    """`row(i)` of every sample, `_ROWS` at a time."""
    if num_samples <= _ROWS:
        return jax.vmap(row)(jnp.arange(num_samples))
    return jax.lax.map(row, jnp.arange(num_samples), batch_size=_ROWS)


def pathwise(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = c, s = -beta c: differentiates every place where phi stands.

    The reparameterised gradient of Kingma and Welling (2014), eq. 10, and, for L_K, of
    Burda et al. (2016), eq. 13. Unbiased for every bound.
    """
    c = jax.grad(bound)(log_weights)
    return c, -beta * c


def stl(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = c, s = 0: leaves out the score of q, which has mean zero for the ELBO alone.

    "Sticking the landing", Roeder, Wu and Duvenaud (2017), eq. 8: without variance where q
    is the posterior; biased for any bound whose c depends on z.
    """
    c = jax.grad(bound)(log_weights)
    return c, jnp.zeros_like(c)


def doubly_reparameterized(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = c - beta h, s = 0, with h_i = d^2 bound / d log w_i^2.

    The score sum of the pathwise gradient, -beta sum_i c_i d log q(z_i|x) / d phi, once
    more reparameterised: d c_i / d z_i = h_i d log w_i / d z_i. For L_K this is
    a = w~^2, DReG (Tucker et al. 2019, eq. 8); for the Renyi bound their DReG(alpha), eq.
    12; for the ELBO h = 0 and it is `stl`. Unbiased for every twice differentiable bound.
    """
    c = jax.grad(bound)(log_weights)
    return c - beta * diagonal_hessian(bound, log_weights), jnp.zeros_like(c)


def wake_phi(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = 0, s = w~: phi raises log q(z|x) at self-normalised samples of the posterior.

    The wake-phase update of Bornschein and Bengio (2015), eq. 13, which lowers
    KL(p(z|x) || q(z|x)); biased for it by O(1/K). It ignores the bound, and beta: w~ must be
    those of p(x, z) itself, or the expectation would not be 0 where q is the posterior.
    """
    normalized = jax.nn.softmax(log_weights)
    return None, normalized


def doubly_reparameterized_wake_phi(
    log_weights: Float[Array, "K"], *, bound: Bound, beta
) -> Weights:
    """a = w~ - w~^2, s = 0: the expectation of `wake_phi` through z alone.

    Tucker et al. (2019), eq. 10; d w~_i / d log w_i = w~_i - w~_i^2 in the score identity.
    """
    normalized = jax.nn.softmax(log_weights)
    return normalized * (1.0 - normalized), jnp.zeros_like(normalized)


def _mean_of_others(log_weights: Float[Array, "K"]) -> Float[Array, "K"]:
    """mean_{j != i} log w_j for each i: the log of the geometric mean of the other weights."""
    center = jnp.mean(log_weights)
    spread = log_weights - center
    return center - spread / (log_weights.shape[0] - 1)


def reinforce(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = 0, s_i = f(log w) - f(m_i, .., m_i) - beta c_i, m_i = mean_{j != i} log w_j.

    The score-function gradient (Williams 1992) with a leave-one-out baseline: the bound where
    every weight is the geometric mean of the others; for all bounds here that is m_i, or -m_i
    for one that q lowers. For the ELBO it is that of Kool et al. (2019), s_i = (log w_i - m_i)/K
    up to a constant, and the same as `vimco`. Unbiased for every bound; K >= 2.
    """
    value, c = jax.value_and_grad(bound)(log_weights)
    means = _mean_of_others(log_weights)
    flat = lambda index: bound(jnp.full_like(log_weights, means[index]))  # noqa: E731
    return None, value - _over_samples(flat, log_weights.shape[0]) - beta * c


def nvil(
    log_weights: Float[Array, "K"], *, bound: Bound, beta, baseline: Float[Array, ""]
) -> Weights:
    """a = 0, s_i = f(log w) - b(x) - beta c_i with a learned `baseline` b, for any K.

    The score-function gradient with the baseline of Mnih and Gregor (2014), section 2: at K = 1,
    where samples cannot be compared with each other, something must say what f is like at this x.
    Unbiased for every bound, whatever b is.
    """
    value, c = jax.value_and_grad(bound)(log_weights)
    return None, value - baseline - beta * c


def vimco(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = 0, s_i = f(log w) - f(log w with m_i for log w_i) - beta c_i, m_i as in `reinforce`.

    Mnih and Rezende (2016), eq. 11 to 13, for L_K, where c = w~: sample i is credited with what
    it adds to the bound beside the others. Here for any bound, which is computed K times.
    Unbiased; K >= 2.
    """
    value, c = jax.value_and_grad(bound)(log_weights)
    means = _mean_of_others(log_weights)
    without = lambda index: bound(log_weights.at[index].set(means[index]))  # noqa: E731
    return None, value - _over_samples(without, log_weights.shape[0]) - beta * c


def ovis(log_weights: Float[Array, "K"], *, bound: Bound, beta) -> Weights:
    """a = 0, s_i = L_K - log((1/K) sum_{j != i} w_j) - beta w~_i = -log(1 - w~_i) - beta w~_i.

    The control variate of Lievin et al. (2020) for many effective samples (OVIS~ with gamma = 0):
    what is left of s_i is w~_i^2 / 2 + .., so that the signal-to-noise ratio of phi's gradient
    rises with K where that of `vimco` does not. For L_K alone; unbiased, K >= 2.
    """
    del bound
    return None, -numerics.log_left_out(log_weights) - beta * jax.nn.softmax(log_weights)
