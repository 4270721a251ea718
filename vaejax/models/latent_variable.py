"""A latent-variable model composed of parts: p(z), p(x|z), q(z|x) and the networks between."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import parts
from vaejax.errors import UserError
from vaejax.models import (
    divergences,
    hierarchies,
    likelihoods,
    networks,
    posteriors,
    priors,
    supports,
)
from vaejax.models.distributions import Chain
from vaejax.models.hierarchies import HIERARCHIES
from vaejax.models.likelihoods import LIKELIHOODS
from vaejax.models.networks import NETWORKS, Network, Site
from vaejax.models.pieces import Pieces
from vaejax.models.posteriors import POSTERIORS
from vaejax.models.priors import PRIORS, Prior
from vaejax.parts import Part
from vaejax.schema import field
from vaejax.types import DataSpec, Distribution, Model


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
        ("mlp",), "networks of q: one for each stochastic layer, or one for all", parts=NETWORKS
    )
    decoder: tuple[Part, ...] | None = field(
        None, "networks of p, as encoder; None: the encoder's mirror", parts=NETWORKS
    )
    hierarchy: Part = field(
        "bottom_up", "how several stochastic layers hang together", parts=HIERARCHIES
    )
    output_bias: Literal["mean", "zero"] = field(
        "mean", "where the decoder's output starts: at the mean training image, or at zero"
    )


def problems(config: Config) -> list[str]:
    """What is wrong between fields, one "path: sentence" each."""
    if not config.latent_dims:
        return ["model.latent_dims: needs at least one stochastic layer, got ()"]
    count, found = len(config.latent_dims), []
    for name in ("encoder", "decoder"):
        given = getattr(config, name)
        if given is not None and len(given) not in (1, count):
            found.append(
                f"model.{name}: needs one network for each stochastic layer ({count}), or one for "
                f"all, got {len(given)}: {', '.join(map(str, given))}"
            )
    return found or _refused_options(config)


def _refused_options(config: Config) -> list[str]:
    """What the parts themselves say of their options, asked on a shape that fits them all."""
    size, spec = config.latent_dims[-1], DataSpec((2**20, 2**20, 1), None)
    try:
        prior = parts.bind(config.prior, priors.PRIORS)(size, spec)
    except UserError as error:
        return [f"model.prior: {config.prior.name}: {error}"]
    try:
        family = parts.bind(config.posterior, posteriors.POSTERIORS)(size)
    except UserError as error:
        return [f"model.posterior: {config.posterior.name}: {error}"]
    if family.support != prior.support:
        return [
            f"model.prior: {config.prior} is over {supports.described(prior.support)}, "
            f"model.posterior={config.posterior} over {supports.described(family.support)}; use "
            f"model.prior={supports.nearest_prior(family.support)}"
        ]
    try:
        _assembled(config, spec)
    except UserError as error:
        return [f"model: {error}"]
    if prior.encodes and family.density_steps > 1:
        return [
            f"model.prior: {config.prior.name} needs log q(z|u) at given z for every pseudo-input "
            f"u, which model.posterior={config.posterior.name} finds one latent after another; "
            f"use model.posterior=coupling, or model.prior=mixture"
        ]
    return []


def data_of(config: Config) -> str:
    """What values the likelihood models: "binary", "levels" or "real"."""
    spec = DataSpec((1, 1, 1), None)
    return parts.bind(config.likelihood, likelihoods.LIKELIHOODS)(spec).data


def _networks(given: tuple[Part, ...], count: int) -> tuple[Callable[[Site], Network], ...]:
    """What makes the networks of each layer; one that is given alone stands for all layers."""
    chosen = given * count if len(given) == 1 else given
    return tuple(parts.bind(part, networks.NETWORKS) for part in chosen)


def _assembled(config: Config, spec: DataSpec) -> Model:
    likelihood = parts.bind(config.likelihood, likelihoods.LIKELIHOODS)(spec)
    seen, bias = spec, None
    if spec.mean is not None:
        mean = jnp.asarray(spec.mean)
        seen = spec._replace(mean=np.asarray(likelihood.intensities(mean)))
        bias = np.asarray(likelihood.output_bias(mean)) if config.output_bias == "mean" else None
    prior = parts.bind(config.prior, priors.PRIORS)
    count = len(config.latent_dims)
    pieces = Pieces(
        shape=spec.shape,
        latent_dims=config.latent_dims,
        encoders=_networks(config.encoder, count),
        decoders=_networks(config.decoder or config.encoder, count),
        family=parts.bind(config.posterior, posteriors.POSTERIORS),
        prior=lambda size: _or_made(prior(size, seen)),
        likelihood=likelihood,
        output_bias=bias,
    )
    model = parts.bind(config.hierarchy, hierarchies.HIERARCHIES)(pieces)
    encode, intensities = model.posterior, likelihood.intensities
    return model._replace(
        posterior=lambda params, x: encode(params, intensities(x)),
        intensities=intensities,
        prepare=_prepare(model) if prior(config.latent_dims[-1], seen).encodes else model.prepare,
    )


def _or_made(prior: Prior) -> Prior:
    """`prior`, which takes the distribution itself in the place of its parameters too."""

    def distribution(params, encode):
        return params if isinstance(params, Distribution) else prior.distribution(params, encode)

    return prior._replace(distribution=distribution)


def _prepare(model: Model) -> Callable:
    """Puts p(z_L) in the place of its parameters, where encoders make it: else each x, or each
    chunk of samples, would run them again."""

    def prepare(params):
        prior = model.prior(params)
        made = prior.first if isinstance(prior, Chain) else prior
        return params | {"generative": params["generative"] | {"prior": made}}

    return prepare


def build(config: Config, spec: DataSpec) -> Model:
    """The model of `config` for data of `spec`; equal arguments give the same model object,
    so that compiled programs are shared.

    Raises:
      UserError: naming an option that a part refuses, or shapes that do not fit.
    """
    mean = None if spec.mean is None else np.asarray(spec.mean)
    key = None if mean is None else (mean.shape, str(mean.dtype), mean.tobytes())
    return _build(config, spec._replace(shape=tuple(spec.shape), mean=None), key)


@functools.lru_cache(maxsize=64)
def _build(config: Config, spec: DataSpec, mean_key: tuple | None) -> Model:
    if mean_key is not None:
        mean = np.frombuffer(mean_key[2], mean_key[1]).reshape(mean_key[0])
        spec = spec._replace(mean=mean)
    model = _assembled(config, spec)
    return model._replace(kl_groups=_kl_groups(model, spec.shape))


def _kl_groups(model: Model, shape: tuple[int, ...]) -> Callable | None:
    """Asks the distributions themselves, by tracing, whether their KL is known."""

    def groups(params, x):
        return divergences.kl_groups(model.posterior(params, x), model.prior(params))

    known = jax.eval_shape(
        lambda key, x: groups(model.init(key), x),
        jax.random.key(0),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    return None if known is None else groups
