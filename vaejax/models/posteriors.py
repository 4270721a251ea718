"""Families of q(z|x), and of p(z_1|z_2): a distribution of z [Z] given a network's output.

To add one, write it here and name it in `POSTERIORS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError
from vaejax.types import Distribution

_MOST_CORRELATED = 4096  # their covariance alone takes 64 MiB


class Family(NamedTuple):
    """A distribution of one vector of latents as a function of a network's output.

    Attributes:
      outputs: shape of the output it wants of the network.
      init: `(key) -> params` of its own, beside the network's.
      distribution: `(params, output) -> Distribution` of z [Z].
    """

    outputs: tuple[int, ...]
    init: Callable[[PRNGKeyArray], PyTree]
    distribution: Callable[[PyTree, Float[Array, "..."]], Distribution]


def normal(size: int, *, shared_scale: bool = False) -> Family:
    """Independent normals, N(z; loc, exp(log_scale)^2).

    The network gives loc and log_scale, or loc alone with `shared_scale`: one learned
    log_scale per unit then serves every x.
    """
    if shared_scale:
        return Family(
            outputs=(size,),
            init=lambda key: {"log_scale": jnp.zeros(size)},
            distribution=lambda params, loc: _independent(loc, params["log_scale"]),
        )
    return Family(
        outputs=(2 * size,),
        init=lambda key: {},
        distribution=lambda params, output: _independent(*jnp.split(output, 2)),
    )


def _independent(loc: Float[Array, "Z"], log_scale: Float[Array, "Z"]) -> Distribution:
    return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


def full_normal(size: int, *, shared_scale: bool = False) -> Family:
    """N(z; loc, L L') with L lower triangular and exp on its diagonal.

    The network gives loc, log diagonal and the strictly lower part, Z (Z + 3) / 2 numbers; or
    loc alone with `shared_scale`: one learned L then serves every x, as in the posterior of
    a linear-Gaussian model.

    Raises:
      UserError: more than 4,096 latents.
    """
    if size > _MOST_CORRELATED:
        raise UserError(
            f"full_normal: at most {_MOST_CORRELATED:,} latents, got {size:,}; use normal"
        )
    rows, columns = jnp.tril_indices(size, -1)

    def distribution(loc, log_diagonal, lower):
        factor = jnp.diag(jnp.exp(log_diagonal)).at[rows, columns].set(lower)
        return dist.MultivariateNormal(loc, scale_tril=factor)

    if shared_scale:
        return Family(
            outputs=(size,),
            init=lambda key: {
                "log_diagonal": jnp.zeros(size),
                "lower": jnp.zeros(size * (size - 1) // 2),
            },
            distribution=lambda params, loc: distribution(
                loc, params["log_diagonal"], params["lower"]
            ),
        )
    return Family(
        outputs=(size * (size + 3) // 2,),
        init=lambda key: {},
        distribution=lambda params, output: distribution(
            *jnp.split(output, (size, 2 * size)),
        ),
    )


POSTERIORS: dict[str, Callable[..., Family]] = {"normal": normal, "full_normal": full_normal}
