"""Top-down hierarchies: q(z|x) = q(z_L|x) prod_l q(z_l|z_>l, x) goes the way that p goes.

The ladder VAE (Sønderby et al. 2016), ResNet-VAE (Kingma et al. 2016, section 4), VDVAE (Child
2021) and, with two layers, the hierarchical VAE of Tomczak and Welling (2018), section 3.3. x
passes bottom-up once, without a sample: d_l = d_{l-1} + encoder_l(d_{l-1}), d_0 = x. A path with
the state h_l comes down, from which p(z_l|z_>l) and, with d_l, q(z_l|z_>l, x) are read:

    q(z_L|x):        encoder_L(d_{L-1})                 p(z_L): the prior
    h_l            = h_{l+1} + decoder_{l+1}(h_{l+1}, z_{l+1})
    p(z_l|z_>l):     normal, or discrete as q is; decoder_l of its own (h_l)
    q(z_l|z_>l, x):  the posterior's family, encoder_l of its own (d_l, h_l)
    p(x|z):          decoder_1(h_1, z_1)

What is added is multiplied by a learned number that starts at 1 / sqrt(L), so that states do not
grow with depth (after Child 2021); what becomes loc and log_scale by one that starts at 0.1,
unless L = 1.
The path belongs to theta, and q uses it too: q depends on theta and phi, p on theta alone.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vaejax import keys
from vaejax.errors import UserError, unknown
from vaejax.models import linear_gaussian, maps, mixtures, posteriors
from vaejax.models.distributions import Chain
from vaejax.models.likelihoods import Likelihood
from vaejax.models.networks import Network, Site
from vaejax.models.pieces import Pieces
from vaejax.models.posteriors import Family
from vaejax.models.priors import Prior
from vaejax.types import Distribution, Model, Params

_HEAD_GAIN = 0.1  # scales of z start near one; without it deep convolutions start at infinity


class Merge(NamedTuple):
    """How q(z_l|z_>l, x) comes of the data's side and the path's.

    Attributes:
      sees_path: whether q's network is given h_l beside d_l.
      combine: `(read from the network, () -> p(z_l|z_>l)) -> q(z_l|z_>l, x)`.
      normal: whether it knows independent normals alone.
    """

    sees_path: bool
    combine: Callable[[Distribution, Callable[[], Distribution]], Distribution]
    normal: bool = False


def precision_weighted(data: Distribution, path: Callable[[], Distribution]) -> Distribution:
    """The normalised product of two diagonal normals: precisions add, means are weighted by
    them. Sønderby et al. (2016), eq. 17 to 19.
    """
    ours, theirs = data.base_dist, path().base_dist
    own, other = 1.0 / ours.scale**2, 1.0 / theirs.scale**2
    variance = 1.0 / (own + other)
    loc = variance * (own * ours.loc + other * theirs.loc)
    return dist.Normal(loc, jnp.sqrt(variance)).to_event(1)


MERGES = {
    "concat": Merge(sees_path=True, combine=lambda data, path: data),
    "precision": Merge(sees_path=False, combine=precision_weighted, normal=True),
}


class Layer(NamedTuple):
    """One stochastic layer.

    Attributes:
      place: its shapes.
      encoder: network from d_{l-1} to d_l, or for l = L to q(z_L|x).
      posterior: family of q in this layer.
      decoder: network from h_l and z_l to h_{l-1}, or for l = 1 to p(x|z).
      q_head: network from d_l (and h_l) to q(z_l|z_>l, x); None for l = L.
      p_head: network from h_l to p(z_l|z_>l); None for l = L.
      conditional: family of p(z_l|z_>l).
    """

    place: maps.Place
    encoder: Network
    posterior: Family
    decoder: Network
    q_head: Network | None
    p_head: Network | None
    conditional: Family


def scaled(network: Network, gain: float) -> Network:
    """`network` times a learned number that starts at `gain`."""

    def init(key):
        return {"network": network.init(key), "gain": jnp.full((), gain)}

    def apply(params, inputs):
        return params["gain"] * network.apply(params["network"], inputs)

    return Network(init, apply)


def _is_normal(family: Family) -> bool:
    """Whether a family is one of independent normals, by tracing it."""
    found = []

    def trace(key, output):
        distribution = family.distribution(family.init(key), output)
        found.append(mixtures.is_diagonal_normal(distribution))

    jax.eval_shape(trace, jax.random.key(0), jax.ShapeDtypeStruct(family.outputs, jnp.float32))
    return found[0]


def _layers(
    pieces: Pieces, places: list[maps.Place], merge: Merge, skip: bool
) -> tuple[Layer, ...]:
    """The networks of all layers, each for its place, from the one next to the data on."""
    layers, below, outputs = [], pieces.shape, pieces.likelihood.outputs
    for index, place in enumerate(places):
        encoder, decoder = pieces.encoders[index], pieces.decoders[index]
        top = index == len(places) - 1
        posterior = maps.on_grid(pieces.family, place.latents)
        simple = maps.on_grid(posteriors.conditional_of(posterior.support), place.latents)
        if merge.normal and not top and not _is_normal(posterior):
            raise UserError("merge='precision' needs posterior=normal; use merge='concat'")
        inputs = maps.joined(place.state, place.latents) if skip and not top else place.latents
        bias = None if index else pieces.output_bias
        gain = 1.0 if index else pieces.likelihood.output_gain
        seen = maps.joined(place.state, place.state) if merge.sees_path else place.state
        up = encoder(Site(below, posterior.outputs if top else place.state))
        down = decoder(Site(inputs, outputs, decoder=True, output_bias=bias, output_gain=gain))
        q_head = None if top else encoder(Site(seen, posterior.outputs))
        p_head = None if top else decoder(Site(place.state, simple.outputs, decoder=True))
        if not top:
            q_head, p_head = scaled(q_head, _HEAD_GAIN), scaled(p_head, _HEAD_GAIN)
        added = len(places) ** -0.5
        if index:
            up = scaled(up, _HEAD_GAIN if top else added)
        if index and skip and not top:
            down = scaled(down, added)
        layers.append(Layer(place, up, posterior, down, q_head, p_head, simple))
        below = outputs = place.state
    return tuple(layers)


def build(
    pieces: Pieces,
    *,
    features: int = 128,
    merge: str = "concat",
    skip: bool = True,
    downsampling: tuple[int, ...] = (0,),
) -> Model:
    """q(z_L|x) .. q(z_1|z_>1, x), on the path of p(z_L) .. p(z_1|z_>1) p(x|z).

    `encoder` and `decoder` name, for each layer, what every network of q and of p there is made
    of. The topmost q depends on x alone, so a prior may be made of it. One layer is the model
    of `bottom_up`.

    `features`: channels of d_l and h_l. `merge`: q(z_l|z_>l, x) is read from d_l beside h_l
    ("concat"), or is the normal read from d_l times p(z_l|z_>l), normalised ("precision", as
    the ladder VAE). `skip`: whether h_l keeps what is above; without it h_l = decoder_{l+1}
    (z_{l+1}), and p is the chain p(z_L) .. p(z_1|z_2) p(x|z_1). `downsampling`: by how much the
    maps [h_l, w_l, latent_dims[l]] of z_l are smaller than the image x, one number for each
    layer or one for all; 0: no map, a vector. z_l itself is held as a vector of all its values.

    Raises:
      UserError: an option that is not legal, or a posterior that does not go with it.
    """
    if merge not in MERGES:
        raise unknown("merge", merge, MERGES)
    places = maps.places(pieces.shape, pieces.latent_dims, features, downsampling)
    layers = _layers(pieces, places, MERGES[merge], skip)
    prior = pieces.prior(math.prod(places[-1].latents))
    path = functools.partial(_path, layers, skip)
    encode = functools.partial(_encode, layers)
    model = Model(
        init=functools.partial(_init, layers, prior, pieces.likelihood),
        prior=functools.partial(_prior, layers, path, prior, encode),
        posterior=functools.partial(_posterior, layers, path, MERGES[merge]),
        likelihood=functools.partial(_likelihood, layers, path, pieces.likelihood),
        density_steps=max(layer.posterior.density_steps for layer in layers),
        support=prior.support,
    )
    decoders = [layer.decoder for layer in layers]
    exact = linear_gaussian.log_marginal_of(model, decoders, pieces.likelihood)
    return model._replace(log_marginal=exact)


def _init(layers: tuple[Layer, ...], prior: Prior, likelihood: Likelihood, key):
    # One layer has the very parameters of a bottom-up chain.
    layer_keys = jax.random.split(key, (len(layers), 4))
    head_keys = jax.random.split(keys.within(key, "init/heads"), (len(layers), 2))
    every, lower = list(zip(layers, layer_keys, strict=True)), layers[:-1]
    heads = list(zip(lower, head_keys[:-1], strict=True))
    return {
        "generative": {
            "prior": prior.init(keys.within(key, "init/prior")),
            "decoders": [layer.decoder.init(k[1]) for layer, k in every],
            "heads": [layer.p_head.init(k[0]) for layer, k in heads],
            "likelihood": likelihood.init(layer_keys[0][3]),
        },
        "inference": {
            "encoders": [layer.encoder.init(k[0]) for layer, k in every],
            "heads": [layer.q_head.init(k[1]) for layer, k in heads],
            "posteriors": [layer.posterior.init(k[2]) for layer, k in every],
        },
    }


def _path(layers: tuple[Layer, ...], skip: bool, theta, index: int, state, z):
    """What decoder `index` makes of the state above and z: h_{l-1}, or p(x|z)'s output."""
    layer = layers[index]
    inputs = z.reshape(layer.place.latents)
    keep = skip and state is not None
    if keep:
        inputs = jnp.concatenate([state, inputs], axis=-1)
    output = layer.decoder.apply(theta["decoders"][index], inputs)
    return output + maps.resized(state, output.shape) if keep and index else output


def _conditional(layers: tuple[Layer, ...], theta, index: int, state) -> Distribution:
    """p(z_l|z_>l)."""
    layer = layers[index]
    return layer.conditional.distribution({}, layer.p_head.apply(theta["heads"][index], state))


def _features(layers: tuple[Layer, ...], phi, x) -> list[Float[Array, "..."]]:
    """d_1 .. d_{L-1}."""
    features, state = [], x
    for index, layer in enumerate(layers[:-1]):
        output = layer.encoder.apply(phi["encoders"][index], state)
        state = output + maps.resized(state, output.shape) if index else output
        features.append(state)
    return features


def _topmost(layers: tuple[Layer, ...], phi, below) -> Distribution:
    """q(z_L|x) from d_{L-1}, or from x where there is one layer."""
    output = layers[-1].encoder.apply(phi["encoders"][-1], below)
    return layers[-1].posterior.distribution(phi["posteriors"][-1], output)


def _encode(layers: tuple[Layer, ...], params: Params, x) -> Distribution:
    """q(z_L|x), for priors that are made of posteriors."""
    phi = params["inference"]
    return _topmost(layers, phi, [x, *_features(layers, phi, x)][-1])


def _posterior(layers: tuple[Layer, ...], path: Callable, merge: Merge, params: Params, x):
    theta, phi = params["generative"], params["inference"]
    features = _features(layers, phi, x)

    def step(index, state, above):
        state, layer = path(theta, index + 1, state, above), layers[index]
        seen = features[index]
        if merge.sees_path:
            seen = jnp.concatenate([seen, state], axis=-1)
        output = layer.q_head.apply(phi["heads"][index], seen)
        read = layer.posterior.distribution(phi["posteriors"][index], output)
        return state, merge.combine(read, lambda: _conditional(layers, theta, index, state))

    first = _topmost(layers, phi, [x, *features][-1])
    return _from_the_top(layers, first, step)


def _prior(
    layers: tuple[Layer, ...], path: Callable, prior: Prior, encode: Callable, params: Params
) -> Distribution:
    theta = params["generative"]

    def step(index, state, above):
        state = path(theta, index + 1, state, above)
        return state, _conditional(layers, theta, index, state)

    first = prior.distribution(theta["prior"], functools.partial(encode, params))
    return _from_the_top(layers, first, step)


def _from_the_top(layers: tuple[Layer, ...], first: Distribution, step: Callable) -> Distribution:
    indices = range(len(layers) - 2, -1, -1)
    following = tuple(functools.partial(step, index) for index in indices)
    return Chain(first, following, top_down=True) if following else first


def _likelihood(
    layers: tuple[Layer, ...], path: Callable, likelihood: Likelihood, params: Params, z
) -> Distribution:
    theta, state = params["generative"], None
    z = z if isinstance(z, tuple) else (z,)
    for index in range(len(layers) - 1, -1, -1):
        state = path(theta, index, state, z[index])
    return likelihood.distribution(theta["likelihood"], state)
