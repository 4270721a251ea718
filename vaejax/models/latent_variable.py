"""A latent-variable model composed of parts: p(z), p(x|z), q(z|x) and the networks between.

With L stochastic layers q(z|x) = q(z_1|x) q(z_2|z_1) .. and p(x, z) = p(z_L) .. p(z_1|z_2)
p(x|z_1), as in Burda et al. (2016), section 2: z is an array for L = 1, else a tuple with one
array per layer, from the one next to the data on.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import parts
from vaejax.errors import UserError
from vaejax.models import (
    divergences,
    likelihoods,
    linear_gaussian,
    mixtures,
    networks,
    posteriors,
    priors,
)
from vaejax.models.distributions import Chain
from vaejax.models.likelihoods import LIKELIHOODS, Likelihood
from vaejax.models.networks import NETWORKS, Network, Site
from vaejax.models.posteriors import POSTERIORS, Family
from vaejax.models.priors import PRIORS, Prior
from vaejax.parts import Part
from vaejax.schema import field
from vaejax.types import DataSpec, Model


@dataclasses.dataclass(frozen=True)
class Config:
    """Which parts make the model."""

    latent_dims: tuple[int, ...] = field(
        (50,), "width of each stochastic layer, from the one next to the data", low=1, high=2**20
    )
    prior: Part = field("normal", "p(z) of the topmost layer", parts=PRIORS)
    posterior: Part = field("normal", "family of q in every layer", parts=POSTERIORS)
    likelihood: Part = field("bernoulli", "p(x|z)", parts=LIKELIHOODS)
    encoder: tuple[Part, ...] = field(
        ("mlp",), "network of q: one for each stochastic layer", parts=NETWORKS
    )
    decoder: tuple[Part, ...] | None = field(
        None, "network of p, as encoder; None: the encoder's mirror", parts=NETWORKS
    )
    output_bias: Literal["mean", "zero"] = field(
        "mean", "where the decoder's output starts: at the mean training image, or at zero"
    )


class Layer(NamedTuple):
    """One stochastic layer.

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


def problems(config: Config) -> list[str]:
    """What is wrong between fields, one "path: sentence" each."""
    if not config.latent_dims:
        return ["model.latent_dims: needs at least one stochastic layer, got ()"]
    count, found = len(config.latent_dims), []
    for name in ("encoder", "decoder"):
        given = getattr(config, name)
        if given is not None and len(given) != count:
            found.append(
                f"model.{name}: needs one network for each stochastic layer ({count}), got "
                f"{len(given)}: {', '.join(map(str, given))}"
            )
    return found or _refused_options(config)


def _refused_options(config: Config) -> list[str]:
    """What the parts themselves say of their options, asked on a shape that fits them all."""
    spec = DataSpec((32, 32, 1), None)
    try:
        layers = _layers(config, spec)
    except UserError as error:
        return [f"model: {error}"]
    try:
        prior = parts.bind(config.prior, priors.PRIORS)(layers[-1].size, spec)
    except UserError as error:
        return [f"model.prior: {config.prior.name}: {error}"]
    return _encoding_problems(config, layers) if prior.encodes else []


def _encoding_problems(config: Config, layers: list[Layer]) -> list[str]:
    """Why a prior that is made of q(z|u) at pseudo-inputs u cannot be."""
    if len(layers) > 1:
        return [
            f"model.prior: {config.prior.name} is made of q(z|u) at pseudo-inputs u, and with "
            f"{len(layers)} layers q(z_L|z_(L-1)) sees no input; use one layer, or "
            f"model.prior=mixture"
        ]
    if layers[0].posterior.density_steps > 1:
        return [
            f"model.prior: {config.prior.name} needs log q(z|u) at given z for every pseudo-input "
            f"u, which model.posterior={config.posterior.name} finds one latent after another; "
            f"use model.posterior=coupling, or model.prior=mixture"
        ]
    return []


def data_of(config: Config) -> str:
    """What values the likelihood models: "binary" or "real"."""
    return parts.bind(config.likelihood, likelihoods.LIKELIHOODS)((1, 1, 1)).data


def _layers(config: Config, spec: DataSpec) -> list[Layer]:
    likelihood = parts.bind(config.likelihood, likelihoods.LIKELIHOODS)(spec.shape)
    family = parts.bind(config.posterior, posteriors.POSTERIORS)
    bias = None
    if config.output_bias == "mean" and spec.mean is not None:
        bias = np.asarray(likelihood.output_bias(jnp.asarray(spec.mean)))
    layers, below, shape = [], likelihood, spec.shape
    decoders = config.decoder or config.encoder
    for size, up, down in zip(config.latent_dims, config.encoder, decoders, strict=True):
        posterior = family(size)
        up_site = Site(shape, posterior.outputs)
        down_site = Site((size,), below.outputs, decoder=True, output_bias=bias)
        encoder = parts.bind(up, networks.NETWORKS)(up_site)
        decoder = parts.bind(down, networks.NETWORKS)(down_site)
        layers.append(Layer(size, encoder, posterior, decoder, below))
        below, shape, bias = posteriors.normal(size), (size,), None
    return layers


def build(config: Config, spec: DataSpec) -> Model:
    """The model of `config` for data of `spec`; equal arguments give the same model object,
    so that compiled programs are shared.

    Raises:
      UserError: naming an option that a part refuses, or shapes that do not fit.
    """
    mean = None if spec.mean is None else np.asarray(spec.mean)
    key = None if mean is None else (mean.shape, str(mean.dtype), mean.tobytes())
    return _build(config, tuple(spec.shape), key)


@functools.lru_cache(maxsize=64)
def _build(config: Config, shape: tuple[int, ...], mean_key: tuple | None) -> Model:
    mean = None
    if mean_key is not None:
        mean = np.frombuffer(mean_key[2], mean_key[1]).reshape(mean_key[0])
    spec = DataSpec(shape, mean)
    layers = _layers(config, spec)
    prior = parts.bind(config.prior, priors.PRIORS)(layers[-1].size, spec)
    model = Model(
        init=functools.partial(_init, layers, prior),
        prior=_prior(layers, prior),
        posterior=_posterior(layers),
        likelihood=_likelihood(layers[0]),
        prepare=_prepare(layers, prior),
        density_steps=max(layer.posterior.density_steps for layer in layers),
    )
    return model._replace(
        kl_groups=_kl_groups(model, shape), log_marginal=_log_marginal(model, layers, shape)
    )


def _init(layers: list[Layer], prior: Prior, key):
    keys = jax.random.split(key, (len(layers), 4))
    every = list(zip(layers, keys, strict=True))
    likelihood, *conditionals = [layer.below.init(k[3]) for layer, k in every]
    return {
        "generative": {
            "prior": prior.init(jax.random.fold_in(key, len(layers))),
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

    def posterior(params, x):
        first = conditional(params, 0, x)
        following = tuple(
            functools.partial(conditional, params, index) for index in range(1, len(layers))
        )
        return Chain(first, following, top_down=False) if following else first

    return posterior


def _top(layers: list[Layer], prior: Prior) -> Callable:
    posterior = _posterior(layers)

    def distribution(params):
        encode = functools.partial(posterior, params)
        return prior.distribution(params["generative"]["prior"], encode)

    return distribution


def _prepare(layers: list[Layer], prior: Prior) -> Callable:
    """Puts p(z_L) into the parameters, where encoders make it: else each x, or each chunk of
    samples, would run them again."""
    top = _top(layers, prior)
    if not prior.encodes:
        return lambda params: params
    return lambda params: params | {"prior": top(params)}


def _prior(layers: list[Layer], prior: Prior) -> Callable:
    top = _top(layers, prior)

    def conditional(params, index, z):
        theta, layer = params["generative"], layers[index]
        output = layer.decoder.apply(theta["decoders"][index], z)
        return layer.below.distribution(theta["layers"][index - 1], output)

    def distribution(params):
        first = params["prior"] if "prior" in params else top(params)
        following = tuple(
            functools.partial(conditional, params, index) for index in range(len(layers) - 1, 0, -1)
        )
        return Chain(first, following, top_down=True) if following else first

    return distribution


def _likelihood(layer: Layer) -> Callable:
    def likelihood(params, z):
        theta = params["generative"]
        lowest = z[0] if isinstance(z, tuple) else z
        output = layer.decoder.apply(theta["decoders"][0], lowest)
        return layer.below.distribution(theta["likelihood"], output)

    return likelihood


def _traced(model: Model, shape: tuple[int, ...], function: Callable) -> Any:
    """What `function(params, x)` returns, as shapes: nothing is computed."""
    return jax.eval_shape(
        lambda key, x: function(model.init(key), x),
        jax.random.key(0),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )


def _kl_groups(model: Model, shape: tuple[int, ...]) -> Callable | None:
    """Asks the distributions themselves, by tracing, whether their KL is known."""

    def groups(params, x):
        return divergences.kl_groups(model.posterior(params, x), model.prior(params))

    return None if _traced(model, shape, groups) is None else groups


def _log_marginal(model: Model, layers: list[Layer], shape: tuple[int, ...]) -> Callable | None:
    """Known where p(z) is a mixture of diagonal normals and p(x|z) linear and normal."""
    layer = layers[0]
    log_scale = layer.below.log_scale
    if len(layers) > 1 or log_scale is None or layer.decoder.affine is None:
        return None
    components = lambda params, x: mixtures.as_normals(model.prior(params))  # noqa: E731
    if _traced(model, shape, components) is None:
        return None

    def log_marginal(params, x):
        theta = params["generative"]
        matrix, bias = layer.decoder.affine(theta["decoders"][0])
        own = linear_gaussian.LinearGaussian(matrix, bias, log_scale(theta["likelihood"]))
        return linear_gaussian.log_marginal_of_mixture(own, components(params, x), x)

    return log_marginal
