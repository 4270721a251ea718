"""Bounds on log p(x): functions of one vector of log importance weights.

A bound never sees parameters, data, keys or batches. Reduce over samples here, over
examples elsewhere, in that order. Options are keyword-only parameters with defaults; float
ones may be traced, so their values are checked apart. To add a bound, write it and name it in
`BOUNDS`: configs, scripts, gradient estimators and contract tests take it from there.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vaejax import numerics, parts
from vaejax.parts import Part

Value = Callable[..., Float[Array, ""]]
Number = float | Float[Array, ""]
Side = Literal["lower", "upper", "neither"]


class Bound(NamedTuple):
    """A bound and what is known of it.

    Attributes:
      value: `(log_weights [K], *, options) -> []`, in nats.
      upper: `(*, options) -> bool`, whether it lies above log p(x), so that q is to lower it;
        may be traced, as the options may.
      is_bound: whether it lies on one side of log p(x) at all, in expectation or as K grows.
      derivatives: how often it may be differentiated, 1 or 2.
      linear: whether its derivatives do not depend on the log weights.
      has_maximum: whether its expectation at finite K stays below a number, whatever q is.
      problems: `(num_samples, *, options) -> list`, which values of the options it refuses.
    """

    value: Value
    upper: Callable[..., bool | Bool[Array, ""]] = lambda **options: False
    is_bound: bool = True
    derivatives: int = 2
    linear: bool = False
    has_maximum: bool = True
    problems: Callable[..., list[str]] = lambda num_samples, **options: []


def elbo(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """The evidence lower bound, (1/K) sum_k log w_k, in nats.

    Kingma and Welling (2014), eq. 2; more samples lower its variance, not its distance
    to log p(x).
    """
    chex.assert_rank(log_weights, 1)
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
    """
    return jnp.mean(jax.vmap(iwae)(log_weights.reshape(num_groups, -1)))


def _miwae_problems(num_samples: int, *, num_groups: int) -> list[str]:
    if num_groups < 1 or num_samples % num_groups:
        return [f"num_groups: must divide num_samples = {num_samples}, got {num_groups}"]
    return []


def ciwae(log_weights: Float[Array, "K"], *, beta: Number = 0.5) -> Float[Array, ""]:
    """beta ELBO + (1 - beta) L_K, in nats.

    Rainforth et al. (2018), section 4; beta = 1 is the `elbo`, beta = 0 `iwae`.
    """
    return beta * elbo(log_weights) + (1.0 - beta) * iwae(log_weights)


def _ciwae_problems(num_samples: int, *, beta: float) -> list[str]:
    return [] if 0.0 <= beta <= 1.0 else [f"beta: must be in [0, 1], got {beta}"]


def renyi(log_weights: Float[Array, "K"], *, alpha: Number = 0.5) -> Float[Array, ""]:
    """log((1/K) sum_k w_k^(1-alpha)) / (1 - alpha), in nats.

    Li and Turner (2016), eq. 5 and 6; alpha = 0 is `iwae`, alpha = 1 (the limit) the `elbo`,
    alpha -> minus infinity `vr_max`. For alpha < 0 it lies above log p(x) once K is large:
    renyi(alpha=1-n) is cubo(order=n).
    """
    return numerics.power_mean(log_weights, 1.0 - alpha)


def vr_max(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """max_k log w_k, in nats: the best single sample takes all of the gradient.

    Li and Turner (2016), section 4.2. No bound: at most log K above L_K.
    """
    return jnp.max(log_weights)


def tvo(
    log_weights: Float[Array, "K"],
    *,
    partition: tuple[Number, ...] = (0.0, 0.1, 0.3, 1.0),
    side: str = "left",
) -> Float[Array, ""]:
    """sum_j (b_{j+1} - b_j) E_b[log w] with b = b_j ("left") or b_{j+1} ("right"), in nats.

    The thermodynamic variational objective, Masrani, Le and Wood (2019), eq. 7 to 9: a
    Riemann sum of log p(x) = int_0^1 E_b[log w] db, where E_b weights the K samples by
    w^b, normalised. The integrand rises with b: the left sum is a lower bound and the
    right one an upper bound, both as K grows; partition (0, 1) is the `elbo` on the left.
    """
    nodes = jnp.stack([jnp.asarray(node, log_weights.dtype) for node in partition])
    betas = nodes[:-1] if side == "left" else nodes[1:]

    def expectation(beta):
        return jnp.sum(jax.nn.softmax(beta * log_weights) * log_weights)

    return jnp.diff(nodes) @ jax.vmap(expectation)(betas)


def _tvo_problems(num_samples: int, *, partition: tuple[float, ...], side: str) -> list[str]:
    found = []
    steps = [high - low for low, high in itertools.pairwise(partition)]
    if len(partition) < 2 or partition[0] != 0.0 or partition[-1] != 1.0 or min(steps) <= 0.0:
        found.append(f"partition: must rise strictly from 0 to 1, got {tuple(partition)}")
    if side not in ("left", "right"):
        found.append(f"side: must be 'left' or 'right', got {side!r}")
    return found


def jackknife(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """K L_K - (K - 1) mean_i L_{K-1} without sample i, in nats; one sample gives log w.

    The first-order jackknife of Nowozin (2018), eq. 12: its bias is O(K^-2) where that of
    L_K is O(1/K), but it is no bound. Written as L_K + (K - 1) [log(1 - 1/K) - mean_i
    log(1 - w~_i)], which loses no digits to the subtraction of two numbers K times larger.

    It has no maximum in q. Where one weight is far above the others it is about (2 - 1/K) log
    w_(1) - (1 - 1/K) log w_(2), the two largest. A q that is s times as wide as the posterior in
    one latent has log w of about -c z^2, and E z_(2)^2 = 3 E z_(1)^2 of its two samples nearest to
    the posterior: for every K >= 3 the expectation grows like s^2, and it exceeds log p(x) from
    s = 1 on.
    """
    num_samples = log_weights.shape[0]
    if num_samples == 1:
        return log_weights[0]
    correction = math.log1p(-1.0 / num_samples) - jnp.mean(numerics.log_left_out(log_weights))
    return iwae(log_weights) + (num_samples - 1) * correction


def cubo(log_weights: Float[Array, "K"], *, order: Number = 2.0) -> Float[Array, ""]:
    """(1/n) log((1/K) sum_k w_k^n), in nats: an upper bound that q is to minimise.

    CUBO_n of Dieng et al. (2017), eq. 3. The log of a mean of finitely many samples is
    biased down: a printed value need not lie above log p(x).
    """
    return numerics.power_mean(log_weights, order)


def _cubo_problems(num_samples: int, *, order: float) -> list[str]:
    return [] if order >= 1.0 else [f"order: must be at least 1, got {order}"]


BOUNDS: dict[str, Bound] = {
    "elbo": Bound(elbo, linear=True),
    "iwae": Bound(iwae),
    "miwae": Bound(miwae, problems=_miwae_problems),
    "ciwae": Bound(ciwae, problems=_ciwae_problems),
    "renyi": Bound(renyi, upper=lambda alpha: alpha < 0.0),
    "vr_max": Bound(vr_max, is_bound=False, derivatives=1),
    "tvo": Bound(tvo, upper=lambda partition, side: side == "right", problems=_tvo_problems),
    "jackknife": Bound(jackknife, is_bound=False, has_maximum=False),
    "cubo": Bound(cubo, upper=lambda order: True, problems=_cubo_problems),
}
FUNCTIONS: dict[str, Value] = {name: bound.value for name, bound in BOUNDS.items()}


def parse(text: str, *, path: str = "bound") -> Part:
    """The bound that `text` names, such as "iwae" or "renyi(alpha=0.5)".

    Raises:
      UserError: unknown bound or option, naming `path`.
    """
    return parts.parse(text, FUNCTIONS, path=path)


def of(part: Part) -> Callable[[Float[Array, "K"]], Float[Array, ""]]:
    """The bound that `part` names as a function of the log weights alone."""
    return parts.bind(part, FUNCTIONS)


def make(text: str) -> Callable[[Float[Array, "K"]], Float[Array, ""]]:
    """The bound that `text` names as a function of the log weights alone. Raises UserError."""
    return of(parse(text))


def side(part: Part) -> Side:
    """On which side of log p(x) the bound lies, for concrete options."""
    bound = BOUNDS[part.name]
    if not bound.is_bound:
        return "neither"
    return "upper" if bound.upper(**dict(part.options)) else "lower"


def has_best_q(part: Part) -> bool:
    """Whether E[bound] at finite K has a q that is best, for concrete options.

    A lower bound cannot pass log p(x). An upper bound of finitely many samples, which q is to
    lower, falls without end as q grows wider; the jackknife rises without end.
    """
    return BOUNDS[part.name].has_maximum and side(part) != "upper"


def to_maximize(part: Part) -> Callable[[Float[Array, "K"]], Float[Array, ""]]:
    """The bound as an objective of q: minus it where it is an upper one. Options may be traced."""
    value, upper = of(part), BOUNDS[part.name].upper(**dict(part.options))
    return lambda log_weights: jnp.where(upper, -1.0, 1.0) * value(log_weights)


def problems(part: Part, *, num_samples: int) -> list[str]:
    """Which concrete options of the bound cannot be, with K samples."""
    return BOUNDS[part.name].problems(num_samples, **dict(part.options))
