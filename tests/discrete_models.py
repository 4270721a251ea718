"""Small models with discrete latents, whose every expectation is a sum over states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from conftest import model_config, perturbed
from jax.flatten_util import ravel_pytree

from vaejax.models import latent_variable, latents, supports
from vaejax.objectives import gradients, importance
from vaejax.types import DataSpec

X = jnp.array([1.0, 0.0, 1.0])
NUM_DRAWS = 20_000
BINARY = {"posterior": "bernoulli", "prior": "bernoulli"}
MODELS = {
    "sbn-1": BINARY | {"latent_dims": (3,)},
    "sbn-2": BINARY | {"latent_dims": (2, 2)},
    "sbn-3": BINARY | {"latent_dims": (2, 1, 1)},
    "autoregressive": {
        "posterior": "bernoulli",
        "prior": "autoregressive_bernoulli(hidden_dims=(3,))",
        "latent_dims": (3,),
    },
    "categorical": {
        "posterior": "categorical(num_classes=3)",
        "prior": "categorical(num_classes=3)",
        "latent_dims": (6,),
    },
    "categorical-2": {
        "posterior": "categorical(num_classes=2)",
        "prior": "categorical(num_classes=2)",
        "latent_dims": (4, 2),
    },
    "top_down": BINARY | {"latent_dims": (2, 2), "hierarchy": "top_down(features=2)"},
}
KEYS = jax.random.split(jax.random.key(3), NUM_DRAWS)


@functools.cache
def case(name):
    """A model whose q is well off its posterior."""
    config = model_config(encoder="mlp(hidden_dims=(2,))", **MODELS[name])
    assert latent_variable.problems(config) == []
    model = latent_variable.build(config, DataSpec((3,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.6)
    return model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def states(params, model):
    """Every z, flat [S, Z]."""
    size, _ = latents.unraveller(params, model=model)
    count = supports.num_states(model.support, size)
    return jax.vmap(lambda n: supports.state(model.support, size, n))(jnp.arange(count))


def log_terms(params, model, x=X):
    """log p(x, z) and log q(z|x) of every state, [S] each."""
    unravel = latents.unraveller(params, model=model)[1]

    def one(z):
        terms = importance.log_terms_at(params, x, unravel(z), model=model)
        return terms.log_likelihood + terms.log_prior, terms.log_posterior

    return jax.vmap(one)(states(params, model))


def pairs(params, model):
    """Of each pair of states the log weights [S S 2] and the mass under q [S S]."""
    log_joint, log_q = log_terms(params, model)
    weights = log_joint - log_q
    both = jnp.stack(jnp.meshgrid(weights, weights, indexing="ij"), axis=-1)
    return both, jnp.exp(log_q[:, None] + log_q[None, :]), log_q


def expected_bound(bound, model, beta=1.0):
    """params -> E[bound(log w_1, log w_2)], a sum over all pairs of states."""

    def expected(params):
        weights, log_q = tempered(params, model, beta)
        return mean_over_pairs(bound, weights, log_q)

    return expected


def tempered(params, model, beta):
    """Log weights and log q of every state, [S] each."""
    log_joint, log_q = log_terms(params, model)
    log_likelihood = likelihoods(params, model)
    return log_likelihood + beta * (log_joint - log_likelihood - log_q), log_q


def mean_over_pairs(bound, weights, log_q):
    pairs = jnp.stack(jnp.meshgrid(weights, weights, indexing="ij"), axis=-1)
    mass = jnp.exp(log_q[:, None] + log_q[None, :])
    return jnp.sum(mass * jax.vmap(jax.vmap(bound))(pairs))


def expected_gradients(params, model, beta):
    """bound -> the gradient of `expected_bound`; the model is differentiated once for all."""
    states, jacobian = jax.jit(
        lambda p: (tempered(p, model, beta), jax.jacrev(lambda p: tempered(p, model, beta))(p))
    )(params)

    def exact(bound):
        outer = jax.jit(jax.grad(functools.partial(mean_over_pairs, bound), (0, 1)))(*states)
        both = zip(outer, jacobian, strict=True)
        parts = [jax.tree.map(lambda leaf, o=o: jnp.tensordot(o, leaf, 1), j) for o, j in both]
        return jax.tree.map(jnp.add, *parts)

    return exact


def likelihoods(params, model):
    unravel = latents.unraveller(params, model=model)[1]
    return jax.vmap(lambda z: model.likelihood(params, unravel(z)).log_prob(X))(
        states(params, model)
    )


def draws(params, model, functions, target, num_draws=NUM_DRAWS):
    """Gradients of each surrogate on common keys, flat: one [draws, J] for each."""

    def gradient(key, surrogate):
        grad = jax.grad(lambda p: surrogate(p, key, X, model=model, target=target)[0])
        return {name: ravel_pytree(part)[0] for name, part in grad(params).items()}

    every = lambda key: [gradient(key, each) for each in functions]
    return jax.jit(jax.vmap(every))(jax.random.split(jax.random.key(3), num_draws))


def errors(draws, exact):
    """(mean - exact) / standard error of every coordinate of one group."""
    draws = np.asarray(draws)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    return (draws.mean(axis=0) - np.asarray(exact)) / np.maximum(error, 1e-9)


def flat(params):
    return {name: ravel_pytree(part)[0] for name, part in params.items()}


def surrogate(name):
    return gradients.surrogate(gradients.parse(name))
