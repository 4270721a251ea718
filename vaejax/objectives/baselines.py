"""The learned baseline b(x) of an estimator without a path: a network of x alone.

It is trained along with the model, and belongs to no part of it: `params["inference"]["baseline"]`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.models import networks, sites
from vaejax.types import Model, Params

NAME = "baseline"


def network(model: Model, *, hidden_dims: tuple[int, ...]) -> sites.Network:
    """A multilayer perceptron from x to one number."""

    def mean(key):
        params = model.init(key)
        return model.likelihood(params, model.prior(params).sample(key)).mean

    shape = jax.eval_shape(mean, jax.random.key(0)).shape
    return networks.mlp(sites.Site(shape, (1,)), hidden_dims=hidden_dims)


def with_initial(params: Params, key: PRNGKeyArray, own: sites.Network) -> Params:
    """`params` with a baseline that was not trained beside phi."""
    return params | {"inference": params["inference"] | {NAME: own.init(key)}}


def value(own: sites.Network, params: Params, x: Float[Array, "..."]) -> Float[Array, ""]:
    """b(x) in nats: what the network says is in nats per value of x, as the bound is large.

    Raises:
      ValueError: parameters without a baseline.
    """
    if NAME not in params["inference"]:
        raise ValueError("these parameters have no baseline; see gradients.init")
    return x.size * jnp.squeeze(own.apply(params["inference"][NAME], x))
