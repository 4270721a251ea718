"""Both ends of the annealing path of one example, from f_0 = q(z|x) or p(z) to p(x, z)."""

from collections.abc import Callable
from typing import NamedTuple

from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.models import latents
from vaejax.types import Distribution, Model, Params

Draw = Callable[[PRNGKeyArray], Float[Array, "Z"]]


class Ends(NamedTuple):
    """Attributes:

    base: f_0.
    posterior: q(z|x).
    log_densities: `(z [Z]) -> (log f_0, log p(x, z))`, nats.
    """

    base: Distribution
    posterior: Distribution
    log_densities: Callable


def ends(params: Params, x: Float[Array, "..."], *, model: Model, start: str) -> Ends:
    """The ends of a path that starts at the "posterior" q(z|x) or at the "prior"."""
    _, unravel = latents.unraveller(params, model=model)
    prior, posterior = model.prior(params), model.posterior(params, x)

    def log_densities(z):
        latent = unravel(z)
        log_prior = prior.log_prob(latent)
        log_joint = log_prior + model.likelihood(params, latent).log_prob(x)
        return log_prior if start == "prior" else posterior.log_prob(latent), log_joint

    return Ends(prior if start == "prior" else posterior, posterior, log_densities)


def draw(distribution: Distribution) -> Draw:
    """Flat samples of a distribution, [Z]."""
    return lambda key: ravel_pytree(distribution.sample(key))[0]
