"""Small models whose log p(x) is known, and data simulated from them."""

import functools

import jax
import jax.numpy as jnp

from vaejax.models import linear_gaussian, mlp
from vaejax.types import DataSpec


def linear(num_latents=2, size=8, perturbation=0.25):
    """Linear-Gaussian model with a q that is a little off the posterior."""
    model = linear_gaussian.build(
        linear_gaussian.Config(latent_dim=num_latents), DataSpec((size,), None)
    )
    params = model.init(jax.random.key(0))
    params["generative"]["weights"] *= 3.0
    inference = linear_gaussian.exact_posterior(params["generative"])
    inference["log_diagonal"] += perturbation
    inference["bias"] += 0.1
    return model, {"generative": params["generative"], "inference": inference}


def two_layers():
    """A nonlinear Bernoulli VAE, one latent in each of two stochastic layers."""
    config = mlp.Config(latent_dims=(1, 1), hidden_dims=((8,), (8,)))
    model = mlp.build(config, DataSpec((6,), None))
    params = model.init(jax.random.key(3))
    decoders = jax.tree.map(lambda leaf: 1.5 * leaf, params["generative"]["decoders"])
    params["generative"]["decoders"] = decoders
    # An untrained encoder is far off; one near N(0, I) is about as good as a trained one.
    params["inference"] = jax.tree.map(lambda leaf: 0.1 * leaf, params["inference"])
    return model, params


@functools.partial(jax.jit, static_argnames=("model", "count"))
def simulate(params, key, *, model, count):
    def draw(key):
        z_key, x_key = jax.random.split(key)
        return model.sample_likelihood(params, x_key, model.sample_prior(params, z_key))

    return jax.vmap(draw)(jax.random.split(key, count))


def run(estimator, params, x, *, num_seeds=1):
    """{name: Evidence} with leading axes [num_seeds, len(x)], everything from fixed keys."""
    pilot_key, key = jax.random.split(jax.random.key(7))
    tuning = jax.jit(estimator.pilot)(params, pilot_key, x[:4])
    over_examples = jax.vmap(lambda key, x: estimator.estimate(params, key, x, tuning))
    keys = jax.random.split(key, (num_seeds, len(x)))
    x = jnp.broadcast_to(x, (num_seeds, *x.shape))
    return jax.jit(jax.vmap(over_examples))(keys, x)
