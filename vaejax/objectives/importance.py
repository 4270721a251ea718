"""Log importance weights of one example: the vector every bound is a function of."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.models import distributions
from vaejax.types import Latent, LogTerms, Model, Params


def log_terms(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model
) -> LogTerms:
    """log p(x|z), log p(z) and log q(z|x) at one z ~ q(z|x), in nats."""
    z, log_posterior = distributions.sample_and_log_prob(model.posterior(params, x), key)
    return LogTerms(
        log_likelihood=model.likelihood(params, z).log_prob(x),
        log_prior=model.prior(params).log_prob(z),
        log_posterior=log_posterior,
    )


def log_terms_at(params: Params, x: Float[Array, "..."], z: Latent, *, model: Model) -> LogTerms:
    """log p(x|z), log p(z) and log q(z|x) at a given z, in nats."""
    return LogTerms(
        log_likelihood=model.likelihood(params, z).log_prob(x),
        log_prior=model.prior(params).log_prob(z),
        log_posterior=model.posterior(params, x).log_prob(z),
    )


def log_weights(terms: LogTerms, *, beta: float | Float[Array, ""] = 1.0) -> Float[Array, "*K"]:
    """log w = log p(x|z) + beta (log p(z) - log q(z|x)), in nats.

    beta = 1 gives the log importance weight of Burda et al. (2016), eq. 8; another beta
    the integrand of the beta-ELBO (Higgins et al. 2017, eq. 4), and beta = 0 the
    reconstruction term alone. beta scales both densities of z.
    """
    return terms.log_likelihood + beta * (terms.log_prior - terms.log_posterior)


def sample_log_terms(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    num_samples: int,
) -> LogTerms:
    """`log_terms` of K independent samples, [K] each; the encoder runs once."""
    keys = jax.random.split(key, num_samples)
    return jax.vmap(lambda sample_key: log_terms(params, sample_key, x, model=model))(keys)


def sample_log_weights(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    num_samples: int,
    beta: float | Float[Array, ""] = 1.0,
) -> Float[Array, "K"]:
    """K independent log importance weights of one example, in nats."""
    terms = sample_log_terms(params, key, x, model=model, num_samples=num_samples)
    return log_weights(terms, beta=beta)


def chunked_log_terms(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
) -> LogTerms:
    """`log_terms` of samples 0..K-1 of one example, [K] each, `chunk_size` at a time.

    Sample j has the key fold_in(key, j), whatever K and the chunks.
    """
    chex.assert_scalar_positive(chunk_size)
    num_chunks = -(-num_samples // chunk_size)
    size = -(-num_samples // num_chunks)

    def chunk(first):
        keys = jax.vmap(lambda j: jax.random.fold_in(key, j))(first + jnp.arange(size))
        return jax.vmap(lambda key: log_terms(params, key, x, model=model))(keys)

    terms = jax.lax.map(chunk, size * jnp.arange(num_chunks))
    return jax.tree.map(lambda term: term.reshape(-1)[:num_samples], terms)
