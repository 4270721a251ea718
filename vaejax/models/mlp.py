"""A VAE of multilayer perceptrons with any number of stochastic layers.

The architecture of Burda et al. (2016), section 5: q(z|x) = q(z_1|x) q(z_2|z_1)... and
p(x, z) = p(z_L) ... p(z_1|z_2) p(x|z_1), every factor a diagonal normal or the likelihood.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vaejax import numerics
from vaejax.models import likelihoods
from vaejax.types import DataSpec, Model

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "gelu": nn.gelu}
INITIALIZERS = {
    "glorot_uniform": nn.initializers.glorot_uniform,
    "lecun_normal": nn.initializers.lecun_normal,
    "he_normal": nn.initializers.he_normal,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Attributes:

    name: "mlp".
    latent_dims: width of each stochastic layer, from the one next to the data.
    hidden_dims: deterministic widths in front of each stochastic layer in the encoder;
      the decoder mirrors them.
    activation: nonlinearity of the deterministic layers.
    likelihood: p(x|z): "bernoulli" for binary data, "normal" (learned scale) for real.
    kernel_init: distribution of the initial weights.
    output_bias: start the decoder's output at the training "mean", or at "zero".
    """

    name: Literal["mlp"] = "mlp"
    latent_dims: tuple[int, ...] = (50,)
    hidden_dims: tuple[tuple[int, ...], ...] = ((200, 200),)
    activation: Literal[tuple(ACTIVATIONS)] = "tanh"
    likelihood: Literal[tuple(likelihoods.LIKELIHOODS)] = "bernoulli"
    kernel_init: Literal[tuple(INITIALIZERS)] = "glorot_uniform"
    output_bias: Literal["mean", "zero"] = "mean"


def problems(config: Config) -> list[str]:
    """What is wrong between fields, one "path: sentence" each."""
    found = []
    if not config.latent_dims:
        found.append("model.latent_dims: needs at least one stochastic layer, got ()")
    if len(config.hidden_dims) != len(config.latent_dims):
        found.append(
            f"model.hidden_dims: needs one tuple per stochastic layer ({len(config.latent_dims)}), "
            f"got {len(config.hidden_dims)}: {config.hidden_dims}"
        )
    if min([*config.latent_dims, *sum(config.hidden_dims, ())], default=1) < 1:
        found.append("model.latent_dims, model.hidden_dims: every width must be at least 1")
    return found


class MLP(nn.Module):
    """Dense layers with an activation between them; linear output."""

    widths: tuple[int, ...]
    num_outputs: int
    activation: str
    kernel_init: str
    bias: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "I"]) -> Float[Array, "O"]:
        kernel_init = INITIALIZERS[self.kernel_init]()
        hidden = inputs
        for width in self.widths:
            hidden = nn.Dense(width, kernel_init=kernel_init)(hidden)
            hidden = ACTIVATIONS[self.activation](hidden)
        bias_init = nn.initializers.zeros
        if self.bias is not None:
            bias_init = lambda key, shape, dtype: jnp.asarray(self.bias, dtype)  # noqa: E731
        return nn.Dense(self.num_outputs, kernel_init=kernel_init, bias_init=bias_init)(hidden)


def _normal_parameters(output: Float[Array, "2U"]):
    loc, log_scale = jnp.split(output, 2)
    return loc, log_scale


def _networks(config: Config, spec: DataSpec, likelihood) -> tuple[list[MLP], list[MLP]]:
    """Encoders q(z_l|z_{l-1}) and decoders p(z_{l-1}|z_l), each listed from the data up."""
    shared = {"activation": config.activation, "kernel_init": config.kernel_init}
    encoders = [
        MLP(widths, 2 * dim, **shared)
        for widths, dim in zip(config.hidden_dims, config.latent_dims, strict=True)
    ]
    bias = None
    if config.output_bias == "mean" and spec.mean is not None:
        bias = tuple(likelihood.output_bias(jnp.asarray(spec.mean)).tolist())
    decoders = [MLP(config.hidden_dims[0][::-1], spec.size, bias=bias, **shared)]
    decoders += [
        MLP(widths[::-1], 2 * dim, **shared)
        for widths, dim in zip(config.hidden_dims[1:], config.latent_dims[:-1], strict=True)
    ]
    return encoders, decoders


def build(config: Config, spec: DataSpec) -> Model:
    """The model of `config` for data of `spec`; z is a tuple, one array per layer."""
    likelihood = likelihoods.LIKELIHOODS[config.likelihood]
    encoders, decoders = _networks(config, spec, likelihood)
    num_layers = len(encoders)
    input_dims = (spec.size, *config.latent_dims[:-1])

    def encode(params, layer, inputs):
        return _normal_parameters(encoders[layer].apply(params["inference"][layer], inputs))

    def decode_latent(params, layer, z):
        output = decoders[layer + 1].apply(
            params["generative"]["decoders"][layer + 1], z[layer + 1]
        )
        return _normal_parameters(output)

    def decode(params, z):
        output = decoders[0].apply(params["generative"]["decoders"][0], z[0])
        return params["generative"]["likelihood"], output

    def init(key):
        keys = jax.random.split(key, 2 * num_layers)
        inference = [
            net.init(k, jnp.zeros(dim))
            for net, k, dim in zip(encoders, keys[:num_layers], input_dims, strict=True)
        ]
        decoder_params = [
            net.init(k, jnp.zeros(dim))
            for net, k, dim in zip(decoders, keys[num_layers:], config.latent_dims, strict=True)
        ]
        generative = {"decoders": decoder_params, "likelihood": likelihood.init()}
        return {"generative": generative, "inference": inference}

    def sample_posterior(params, key, x):
        z, inputs = [], x
        for layer, layer_key in enumerate(jax.random.split(key, num_layers)):
            loc, log_scale = encode(params, layer, inputs)
            noise = jax.random.normal(layer_key, loc.shape, loc.dtype)
            inputs = loc + jnp.exp(log_scale) * noise
            z.append(inputs)
        return tuple(z)

    def posterior_mean(params, key, x):
        inputs = (x, *sample_posterior(params, key, x)[:-1])
        return tuple(encode(params, layer, inputs[layer])[0] for layer in range(num_layers))

    def log_posterior(params, x, z):
        inputs = (x, *z[:-1])
        return sum(
            jnp.sum(numerics.normal_log_prob(z[layer], *encode(params, layer, inputs[layer])))
            for layer in range(num_layers)
        )

    def sample_prior(params, key):
        z = [None] * num_layers
        keys = jax.random.split(key, num_layers)
        z[-1] = jax.random.normal(keys[-1], (config.latent_dims[-1],))
        for layer in reversed(range(num_layers - 1)):
            loc, log_scale = decode_latent(params, layer, z)
            z[layer] = loc + jnp.exp(log_scale) * jax.random.normal(keys[layer], loc.shape)
        return tuple(z)

    def log_prior(params, z):
        total = jnp.sum(numerics.normal_log_prob(z[-1], 0.0, jnp.zeros(())))
        for layer in range(num_layers - 1):
            loc, log_scale = decode_latent(params, layer, z)
            total += jnp.sum(numerics.normal_log_prob(z[layer], loc, log_scale))
        return total

    return Model(
        init=init,
        sample_prior=sample_prior,
        log_prior=log_prior,
        sample_posterior=sample_posterior,
        log_posterior=log_posterior,
        log_likelihood=lambda params, x, z: likelihood.log_prob(*decode(params, z), x),
        likelihood_mean=lambda params, z: likelihood.mean(*decode(params, z)),
        sample_likelihood=lambda params, key, z: _sample(likelihood, key, *decode(params, z)),
        posterior_mean=posterior_mean,
        kl_groups=(lambda params, x: numerics.normal_kl(*encode(params, 0, x)))
        if num_layers == 1
        else None,
    )


def _sample(likelihood, key, likelihood_params, output):
    return likelihood.sample(likelihood_params, key, output)
