"""How stochastic layers hang together. To add a way, write it and name it in `HIERARCHIES`.

A hierarchy takes the pieces that a config names and returns a model. z is an array for L = 1,
else a tuple with one vector per layer, from the one next to the data on.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from vaejax import keys
from vaejax.errors import UserError
from vaejax.models import linear_gaussian, posteriors, top_down
from vaejax.models.distributions import Chain
from vaejax.models.likelihoods import Likelihood
from vaejax.models.networks import Network, Site
from vaejax.models.pieces import Pieces
from vaejax.models.posteriors import Family
from vaejax.models.priors import Prior
from vaejax.types import Model


class Layer(NamedTuple):
    """One stochastic layer of a bottom-up chain.

    Attributes:
      size: Z_l.
      encoder: network of q(z_l | z_{l-1}), z_0 = x.
      posterior: its family.
      decoder: network of p(z_{l-1} | z_l).
      below: the family of p(z_{l-1} | z_l), or the likelihood for l = 1.
    """

    size: int
    encoder: Network
    posterior: Family
    decoder: Network
    below: Family | Likelihood


def bottom_up(pieces: Pieces) -> Model:
    """q(z|x) = q(z_1|x) q(z_2|z_1) .. and p(x, z) = p(z_L) .. p(z_1|z_2) p(x|z_1).

    The chain of Burda et al. (2016), section 2: z_l is drawn from the sample below it, and p
    goes the same way back. Each network stands between two neighbours. q(z_l|z_{l-1}) has the
    posterior's family, p(z_{l-1}|z_l) independent normals, or, where z is discrete, independent
    values of its kind: over {0, 1} this is a sigmoid belief network (Neal 1992).
    """
    layers, below, shape, bias = [], pieces.likelihood, pieces.shape, pieces.output_bias
    gain = pieces.likelihood.output_gain
    each = zip(pieces.latent_dims, pieces.encoders, pieces.decoders, strict=True)
    for size, encoder, decoder in each:
        posterior = pieces.family(size)
        up = encoder(Site(shape, posterior.outputs))
        down = decoder(
            Site((size,), below.outputs, decoder=True, output_bias=bias, output_gain=gain)
        )
        layers.append(Layer(size, up, posterior, down, below))
        below, shape = posteriors.conditional_of(posterior.support)(size), (size,)
        bias, gain = None, 1.0
    prior = pieces.prior(layers[-1].size)
    if prior.encodes and len(layers) > 1:
        raise UserError(
            f"prior: it is made of q(z|u) at pseudo-inputs u, and with {len(layers)} layers "
            f"q(z_L|z_(L-1)) sees no input; use one layer, hierarchy=top_down, or prior=mixture"
        )
    model = Model(
        init=functools.partial(_init, layers, prior),
        prior=_prior(layers, prior),
        posterior=_posterior(layers),
        likelihood=_likelihood(layers[0]),
        density_steps=max(layer.posterior.density_steps for layer in layers),
        support=prior.support,
    )
    decoders = [layer.decoder for layer in layers]
    exact = linear_gaussian.log_marginal_of(model, decoders, pieces.likelihood)
    return model._replace(log_marginal=exact)


def _init(layers: list[Layer], prior: Prior, key):
    layer_keys = jax.random.split(key, (len(layers), 4))
    every = list(zip(layers, layer_keys, strict=True))
    likelihood, *conditionals = [layer.below.init(k[3]) for layer, k in every]
    return {
        "generative": {
            "prior": prior.init(keys.within(key, "init/prior")),
            "decoders": [layer.decoder.init(k[1]) for layer, k in every],
            "layers": conditionals,
            "likelihood": likelihood,
        },
        "inference": {
            "encoders": [layer.encoder.init(k[0]) for layer, k in every],
            "posteriors": [layer.posterior.init(k[2]) for layer, k in every],
        },
    }


def _posterior(layers: list[Layer]) -> Callable:
    def conditional(params, index, inputs):
        phi, layer = params["inference"], layers[index]
        output = layer.encoder.apply(phi["encoders"][index], inputs)
        return layer.posterior.distribution(phi["posteriors"][index], output)

    def step(params, index, carry: None, below: Float[Array, "Z"]):
        return carry, conditional(params, index, below)

    def posterior(params, x):
        first = conditional(params, 0, x)
        following = tuple(functools.partial(step, params, i) for i in range(1, len(layers)))
        return Chain(first, following, top_down=False) if following else first

    return posterior


def _prior(layers: list[Layer], prior: Prior) -> Callable:
    posterior = _posterior(layers)

    def step(params, index, carry: None, above: Float[Array, "Z"]):
        theta, layer = params["generative"], layers[index]
        output = layer.decoder.apply(theta["decoders"][index], above)
        return carry, layer.below.distribution(theta["layers"][index - 1], output)

    def distribution(params):
        # q(z_L|x) of a chain is a mixture over the layers below: no prior can be made of it.
        encode = functools.partial(posterior, params) if len(layers) == 1 else None
        first = prior.distribution(params["generative"]["prior"], encode)
        indices = range(len(layers) - 1, 0, -1)
        following = tuple(functools.partial(step, params, i) for i in indices)
        return Chain(first, following, top_down=True) if following else first

    return distribution


def _likelihood(layer: Layer) -> Callable:
    def likelihood(params, z):
        theta = params["generative"]
        lowest = z[0] if isinstance(z, tuple) else z
        output = layer.decoder.apply(theta["decoders"][0], lowest)
        return layer.below.distribution(theta["likelihood"], output)

    return likelihood


HIERARCHIES: dict[str, Callable[..., Model]] = {
    "bottom_up": bottom_up,
    "top_down": top_down.build,
}
