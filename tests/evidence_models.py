"""Small models whose log p(x) is known, and data simulated from them."""

import functools

import jax
import jax.numpy as jnp
from conftest import model_config, perturbed

from vaejax.models import latent_variable, latents, linear_gaussian
from vaejax.types import DataSpec


def linear(num_latents=2, size=8, perturbation=0.25, mixing=0.0, prior="normal"):
    """Linear-Gaussian model with a q that is a little off the posterior.

    `mixing` is how much of the first column of the weights is in the others: above 0 the
    latents are correlated in the posterior.
    """
    config = model_config(
        latent_dims=(num_latents,),
        encoder="linear(kernel_init='lecun_normal')",
        posterior="full_normal(shared_scale=True)",
        likelihood="normal",
        prior=prior,
    )
    model = latent_variable.build(config, DataSpec((size,), None))
    generative = linear_gaussian.of(model.init(jax.random.key(0)))
    generative = generative._replace(log_scale=jnp.zeros(()))
    weights = 3.0 * generative.weights
    generative = generative._replace(weights=weights.at[:, 1:].add(mixing * weights[:, :1]))
    exact = linear_gaussian.exact_posterior(generative)
    stretched = jnp.diag(jnp.exp(perturbation) * jnp.diag(exact.factor))
    off = linear_gaussian.LinearPosterior(
        exact.weights, exact.bias + 0.1, jnp.tril(exact.factor, -1) + stretched
    )
    return model, {
        "generative": linear_gaussian.generative_params(generative),
        "inference": linear_gaussian.inference_params(off),
    }


def mixture():
    """`linear` with two normals for p(z), of about the variance of the one; q stays as it is."""
    model, params = linear(perturbation=0.1, prior="mixture(num_components=2)")
    params["generative"]["prior"] = {
        "logits": jnp.array([0.4, -0.4]),
        "loc": jnp.array([[0.8, -0.6], [-0.9, 0.7]]),
        "log_scale": jnp.log(jnp.array([[0.5, 0.7], [0.6, 0.5]])),
    }
    return model, params


def two_layers():
    """A nonlinear Bernoulli VAE, one latent in each of two stochastic layers."""
    config = model_config(
        latent_dims=(1, 1), encoder="mlp(hidden_dims=(8,)), mlp(hidden_dims=(8,))"
    )
    model = latent_variable.build(config, DataSpec((6,), None))
    params = model.init(jax.random.key(3))
    decoders = jax.tree.map(lambda leaf: 1.25 * leaf, params["generative"]["decoders"])
    params["generative"]["decoders"] = decoders
    # An untrained encoder is far off; one near N(0, I), a little wider so that its weights
    # have light tails, is about as good as a trained one.
    params["inference"] = jax.tree.map(lambda leaf: 0.1 * leaf, params["inference"])
    for encoder in params["inference"]["encoders"]:
        output = encoder["params"]["Dense_1"]
        output["bias"] = output["bias"].at[1].add(0.2)
    return model, params


def discrete():
    """A sigmoid belief network of 3 + 2 latents, away from its start."""
    config = model_config(
        latent_dims=(3, 2),
        encoder="mlp(hidden_dims=(4,)), linear",
        posterior="bernoulli",
        prior="bernoulli",
    )
    model = latent_variable.build(config, DataSpec((6,), None))
    return model, perturbed(jax.jit(model.init)(jax.random.key(3)), jax.random.key(4), 0.7)


@functools.partial(jax.jit, static_argnames=("model", "count"))
def simulate(params, key, *, model, count):
    draw = lambda key: latents.simulate(params, key, model=model)[1]
    return jax.vmap(draw)(jax.random.split(key, count))


def run(estimator, params, x, *, num_seeds=1):
    """{name: Evidence} with leading axes [num_seeds, len(x)], everything from fixed keys."""
    pilot_key, key = jax.random.split(jax.random.key(7))
    tuning = jax.jit(estimator.pilot)(params, pilot_key, x[:4])
    over_examples = jax.vmap(lambda key, x: estimator.estimate(params, key, x, tuning))
    keys = jax.random.split(key, (num_seeds, len(x)))
    x = jnp.broadcast_to(x, (num_seeds, *x.shape))
    return jax.jit(jax.vmap(over_examples))(keys, x)
