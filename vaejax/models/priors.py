"""Families of p(z) over the topmost latents. To add one, write it and name it in `PRIORS`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError
from vaejax.models import conditioners, flows, mixtures, posteriors, supports
from vaejax.models.discrete import AutoregressiveBernoulli, OneHot
from vaejax.models.distributions import Bernoulli
from vaejax.models.flows import Bijection, Flow
from vaejax.models.mixtures import Mixture, NormalMixture
from vaejax.types import DataSpec, Distribution, Support

Encode = Callable[[Float[Array, "..."]], Distribution]
_MOST_COMPONENTS = 2**20
_START_SPREAD = 0.5  # standard deviation of a mixture's first means
_PIXEL_CLIP = 0.01  # pseudo-inputs start inside the range of images, where gradients move them


class Prior(NamedTuple):
    """A distribution of one vector of latents [Z].

    Attributes:
      init: `(key) -> params` of its own.
      distribution: `(params, encode) -> Distribution`; `encode` is x -> q(z|x), for priors
        that are made of posteriors, of an x in [0, 1] whatever its units are.
      encodes: whether it uses `encode`, and so depends on phi too: its gradient in phi belongs
        to that of log p(x, z). What it makes is then a pytree, computed once per call.
      support: which z there are.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    distribution: Callable[[PyTree, Encode], Distribution]
    encodes: bool = False
    support: Support = supports.REAL


def _standard_normal(size: int) -> Distribution:
    return dist.Normal(jnp.zeros(size), 1.0).to_event(1)


def normal(size: int, spec: DataSpec) -> Prior:
    """N(0, I), without parameters."""
    return Prior(init=lambda key: {}, distribution=lambda params, encode: _standard_normal(size))


def mixture(size: int, spec: DataSpec, *, num_components: int = 10) -> Prior:
    """sum_m w_m N(z; loc_m, diag(scale_m)^2) with learned weights, means and scales.

    It starts with the mean and, over its random means, the variance of N(0, I).

    Raises:
      UserError: no components.
    """
    _check_components(num_components)

    def init(key):
        log_scale = 0.5 * math.log1p(-(_START_SPREAD**2))
        return {
            "logits": jnp.zeros(num_components),
            "loc": _START_SPREAD * jax.random.normal(key, (num_components, size)),
            "log_scale": jnp.full((num_components, size), log_scale),
        }

    def distribution(params, encode):
        log_weights = jax.nn.log_softmax(params["logits"])
        return NormalMixture(log_weights, params["loc"], jnp.exp(params["log_scale"]))

    return Prior(init, distribution)


def vamp(
    size: int,
    spec: DataSpec,
    *,
    num_components: int = 500,
    noise: float = 0.2,
    bounded: bool = True,
) -> Prior:
    """(1/M) sum_m q(z|u_m) with M learned pseudo-inputs u_m.

    The VampPrior of Tomczak and Welling (2018), eq. 9. It depends on phi, through q. Pseudo-inputs
    start at the mean training example plus normal noise of standard deviation `noise`; with
    `bounded` they are cut to [0, 1], as images are (a value that has left it stays at its end).
    For a q of independent normals log p(z) is two matrix products; any other q is evaluated M
    times.

    Raises:
      UserError: no components, negative noise, or `bounded` where the mean of the data leaves
        [0, 1].
    """
    _check_components(num_components)
    if noise < 0.0:
        raise UserError(f"noise: must be at least 0, got {noise}")
    mean = np.asarray(0.5 if spec.mean is None else spec.mean)
    if bounded and not (mean.min() >= 0.0 and mean.max() <= 1.0):
        raise UserError("vamp: the data leave [0, 1]; use model.prior=vamp(bounded=False)")

    def init(key):
        drawn = noise * jax.random.normal(key, (num_components, *spec.shape))
        start = jnp.broadcast_to(mean, drawn.shape) + drawn
        if bounded:
            start = jnp.clip(start, _PIXEL_CLIP, 1.0 - _PIXEL_CLIP)
        return {"pseudo_inputs": start}

    def distribution(params, encode):
        free = params["pseudo_inputs"]
        components = jax.vmap(encode)(jnp.clip(free, 0.0, 1.0) if bounded else free)
        if not mixtures.is_diagonal_normal(components):
            return Mixture(components)
        log_weights = jnp.full(num_components, -math.log(num_components))
        return NormalMixture(log_weights, components.base_dist.loc, components.base_dist.scale)

    return Prior(init, distribution, encodes=True)


def _check_components(num_components: int) -> None:
    if not 1 <= num_components <= _MOST_COMPONENTS:
        raise UserError(f"num_components: must be in 1..{_MOST_COMPONENTS}, got {num_components}")


def _flow(size: int, bijection: Bijection) -> Prior:
    def distribution(params, encode):
        return Flow(_standard_normal(size), params, (), bijection)

    return Prior(bijection.init, distribution)


def coupling(
    size: int,
    spec: DataSpec,
    *,
    kind: str = "affine",
    num_layers: int = 4,
    hidden_dims: tuple[int, ...] = (64,),
    num_bins: int = 8,
) -> Prior:
    """A flow of coupling layers over N(0, I), near which it starts; see `flows.coupling`.

    `kind` is "affine" or "spline" (with `num_bins` bins).

    Raises:
      UserError: see `flows.coupling`.
    """
    bijection = flows.coupling(
        size, kind=kind, num_layers=num_layers, hidden_dims=hidden_dims, num_bins=num_bins
    )
    return _flow(size, bijection)


def autoregressive(
    size: int, spec: DataSpec, *, num_layers: int = 1, hidden_dims: tuple[int, ...] = (64,)
) -> Prior:
    """p(z) = prod_i N(z_i; m_i(z_<i), s_i(z_<i)^2), one masked network for all i.

    Germain et al. (2015); with more layers the masked autoregressive flow of Papamakarios et
    al. (2017), eq. 2 and 3. log p(z) is one pass of each network, a sample takes Z of each.

    Raises:
      UserError: see `flows.autoregressive`.
    """
    bijection = flows.autoregressive(size, num_layers=num_layers, hidden_dims=hidden_dims)
    return _flow(size, flows.inverted(bijection))


def bernoulli(size: int, spec: DataSpec) -> Prior:
    """Independent values in {0, 1} with learned logits, which start at 0: fair coins."""
    return Prior(
        init=lambda key: {"logits": jnp.zeros(size)},
        distribution=lambda params, encode: Bernoulli(params["logits"]),
        support=supports.BINARY,
    )


def categorical(size: int, spec: DataSpec, *, num_classes: int = 10) -> Prior:
    """Independent choices of one of `num_classes` with learned logits, which start at 0.

    Each choice is a group of that many latents, see `posteriors.categorical`.

    Raises:
      UserError: fewer than two classes, or latents that are no whole number of groups.
    """
    posteriors.check_classes(size, num_classes)
    return Prior(
        init=lambda key: {"logits": jnp.zeros((size // num_classes, num_classes))},
        distribution=lambda params, encode: OneHot(params["logits"]),
        support=supports.one_of(num_classes),
    )


def autoregressive_bernoulli(
    size: int, spec: DataSpec, *, hidden_dims: tuple[int, ...] = (64,)
) -> Prior:
    """p(z) = prod_i Bernoulli(z_i; sigmoid(l_i(z_<i))), one masked network for all i.

    MADE (Germain et al. 2015) over latents; without hidden layers, `hidden_dims=()`, every logit
    is a linear function of the values before it, as in a fully visible sigmoid belief network
    (Neal 1992). log p(z) is one pass of the network, a sample takes Z.

    Raises:
      UserError: a width below 1.
    """
    conditioners.check(hidden_dims=hidden_dims, context_dims=0)
    masks = conditioners.autoregressive_masks(size, hidden_dims, 0, numbers=1)
    return Prior(
        init=lambda key: conditioners.init(key, (size, *hidden_dims, size)),
        distribution=lambda params, encode: AutoregressiveBernoulli(params, masks),
        support=supports.BINARY,
    )


PRIORS: dict[str, Callable[..., Prior]] = {
    "normal": normal,
    "mixture": mixture,
    "vamp": vamp,
    "coupling": coupling,
    "autoregressive": autoregressive,
    "bernoulli": bernoulli,
    "categorical": categorical,
    "autoregressive_bernoulli": autoregressive_bernoulli,
}
