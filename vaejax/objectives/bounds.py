"""Bounds on log p(x): functions of one vector of log importance weights.

A bound never sees parameters, data, keys or batches. Reduce over samples here, over
examples elsewhere, in that order. Options are keyword-only parameters with defaults, and a
bound says with ValueError which values it refuses. To add one, write it and name it in
`BOUNDS`: configs, scripts, gradient estimators and contract tests take it from there.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax import numerics, specs
from vaejax.errors import UserError

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]


def elbo(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """The evidence lower bound, (1/K) sum_k log w_k, in nats.

    Kingma and Welling (2014), eq. 2; more samples lower its variance, not its distance
    to log p(x).
    """
    return jnp.mean(log_weights)


def iwae(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """The importance-weighted bound L_K = log((1/K) sum_k w_k), in nats.

    Burda, Grosse and Salakhutdinov (2016), eq. 8; L_1 is the ELBO and L_K rises with K
    to log p(x).
    """
    return numerics.logmeanexp(log_weights)


def miwae(log_weights: Float[Array, "K"], *, num_groups: int = 2) -> Float[Array, ""]:
    """Mean over M = `num_groups` disjoint groups of L_{K/M}, in nats.

    Rainforth et al. (2018), section 4: M groups of K/M samples, logmeanexp inside a group,
    then the mean. M = 1 is `iwae`, M = K the `elbo`.

    Raises:
      ValueError: K is not a multiple of M.
    """
    num_samples = log_weights.shape[0]
    if num_groups < 1 or num_samples % num_groups:
        raise ValueError(f"num_groups: must divide num_samples = {num_samples}, got {num_groups}")
    return jnp.mean(jax.vmap(iwae)(log_weights.reshape(num_groups, -1)))


def ciwae(log_weights: Float[Array, "K"], *, beta: float = 0.5) -> Float[Array, ""]:
    """beta ELBO + (1 - beta) L_K, in nats.

    Rainforth et al. (2018), section 4; beta = 1 is the `elbo`, beta = 0 `iwae`.

    Raises:
      ValueError: beta is not in [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta: must be in [0, 1], got {beta}")
    return beta * elbo(log_weights) + (1.0 - beta) * iwae(log_weights)


def renyi(log_weights: Float[Array, "K"], *, alpha: float = 0.5) -> Float[Array, ""]:
    """log((1/K) sum_k w_k^(1-alpha)) / (1 - alpha), in nats.

    Li and Turner (2016), eq. 5 and 6; alpha = 0 is `iwae`, alpha -> 1 the `elbo`,
    alpha -> minus infinity `vr_max`. For alpha < 0 it is no lower bound once K is large.

    Raises:
      ValueError: alpha is 1, or not finite.
    """
    if alpha == 1.0:
        raise ValueError("alpha: the limit alpha = 1 is the elbo; use elbo")
    if not math.isfinite(alpha):
        raise ValueError(f"alpha: must be finite, got {alpha}; minus infinity is vr_max")
    return numerics.logmeanexp((1.0 - alpha) * log_weights) / (1.0 - alpha)


def vr_max(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """max_k log w_k, in nats: the best single sample takes all of the gradient.

    Li and Turner (2016), section 4.2. No bound: at most log K above L_K.
    """
    return jnp.max(log_weights)


def tvo(
    log_weights: Float[Array, "K"],
    *,
    partition: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0),
    side: str = "left",
) -> Float[Array, ""]:
    """sum_j (b_{j+1} - b_j) E_b[log w] with b = b_j ("left") or b_{j+1} ("right"), in nats.

    The thermodynamic variational objective, Masrani, Le and Wood (2019), eq. 7 to 9: a
    Riemann sum of log p(x) = int_0^1 E_b[log w] db, where E_b weights the K samples by
    w^b, normalised. The integrand rises with b: the left sum is a lower bound and the
    right one an upper bound, both as K grows; partition (0, 1) is the `elbo` on the left.

    Raises:
      ValueError: the partition does not rise from 0 to 1, or an unknown side.
    """
    steps = [high - low for low, high in itertools.pairwise(partition)]
    if len(partition) < 2 or partition[0] != 0.0 or partition[-1] != 1.0 or min(steps) <= 0.0:
        raise ValueError(f"partition: must rise strictly from 0 to 1, got {tuple(partition)}")
    if side not in ("left", "right"):
        raise ValueError(f"side: must be 'left' or 'right', got {side!r}")
    betas = jnp.asarray(partition[:-1] if side == "left" else partition[1:], log_weights.dtype)

    def expectation(beta):
        return jnp.sum(jax.nn.softmax(beta * log_weights) * log_weights)

    return jnp.asarray(steps, log_weights.dtype) @ jax.vmap(expectation)(betas)


def jackknife(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """K L_K - (K - 1) mean_i L_{K-1} without sample i, in nats; one sample gives log w.

    The first-order jackknife of Nowozin (2018), eq. 12: its bias is O(K^-2) where that of
    L_K is O(1/K), but it is no bound. Written as L_K + (K - 1) [log(1 - 1/K) - mean_i
    log(1 - w~_i)], which loses no digits to the subtraction of two numbers K times larger.
    """
    num_samples = log_weights.shape[0]
    if num_samples == 1:
        return log_weights[0]
    correction = math.log1p(-1.0 / num_samples) - jnp.mean(numerics.log_left_out(log_weights))
    return iwae(log_weights) + (num_samples - 1) * correction


def cubo(log_weights: Float[Array, "K"], *, order: float = 2.0) -> Float[Array, ""]:
    """(1/n) log((1/K) sum_k w_k^n), in nats: an upper bound that q is to minimise.

    CUBO_n of Dieng et al. (2017), eq. 3. The log of a mean of finitely many samples is
    biased down: a printed value need not lie above log p(x).

    Raises:
      ValueError: the order is below 1.
    """
    if not 1.0 <= order < math.inf:
        raise ValueError(f"order: must be finite and at least 1, got {order}")
    return numerics.logmeanexp(order * log_weights) / order


BOUNDS: dict[str, Callable[..., Float[Array, ""]]] = {
    "elbo": elbo,
    "iwae": iwae,
    "miwae": miwae,
    "ciwae": ciwae,
    "renyi": renyi,
    "vr_max": vr_max,
    "tvo": tvo,
    "jackknife": jackknife,
    "cubo": cubo,
}


def make(text: str, *, path: str = "bound") -> Bound:
    """The bound that `text` names, such as "iwae" or "renyi(alpha=0.5)".

    Raises:
      UserError: unknown bound or option, naming `path`.
    """
    return specs.make(text, BOUNDS, path=path)


def name_of(text: str) -> str:
    """The name in `text`, without options. Raises UserError."""
    return specs.parse(text, BOUNDS, path="bound")[0]


def is_upper(text: str) -> bool:
    """Whether the bound that `text` names lies above log p(x): q is to minimise it."""
    name, options = specs.parse(text, BOUNDS, path="bound")
    return name == "cubo" or (name == "tvo" and options.get("side") == "right")


def to_maximize(text: str) -> Bound:
    """The bound that `text` names as an objective of q: minus it where it is an upper one."""
    bound = make(text)
    return (lambda log_weights: -bound(log_weights)) if is_upper(text) else bound


def check(text: str, *, num_samples: int, path: str) -> None:
    """Traces the bound that `text` names on K samples, so that it can refuse its options.

    Raises:
      UserError: `path`, the bound and what it says.
    """
    bound = make(text, path=path)
    try:
        jax.eval_shape(bound, jax.ShapeDtypeStruct((num_samples,), jnp.float32))
    except ValueError as error:
        raise UserError(f"{path}: {text}: {error}") from error
