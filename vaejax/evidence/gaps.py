"""Why the ELBO falls short of log p(x): the encoder's fault, or the family's.

    log p(x) - ELBO[q] = (log p(x) - ELBO[q*]) + (ELBO[q*] - ELBO[q])
       inference gap   =   approximation gap   +   amortization gap

with q the encoder's posterior and q* the best of a family for this one x (Cremer, Li and
Duvenaud 2018, eq. 5 to 7). The families are the encoder's own, whatever it is, and normals
over the latents of all stochastic layers jointly, flattened. Normals do not contain the encoder's
q where it has several layers, whose later ones depend on earlier ones, or is a flow or a mixture
(nor the diagonal one a full normal): then the amortization gap may come out negative, as q beats
the best of the family.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax import numerics
from vaejax.evidence import diagnostics
from vaejax.models import distributions, latents, supports
from vaejax.objectives import importance
from vaejax.schema import field
from vaejax.types import Model, Params

FAMILIES = ("diagonal", "full_covariance")
ENCODER_FAMILY = "encoder_family"
_START_SAMPLES = 1024
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Budget."""

    num_steps: int = field(400, "Adam steps per example and family", low=1, high=_MOST)
    num_samples: int = field(16, "samples of z per step", low=1, high=_MOST)
    learning_rate: float = field(
        0.03, "first rate, in standard deviations and encoder outputs; cosine to 0", low=0.0
    )
    elbo_samples: int = field(2000, "fresh samples for each final ELBO", low=2, high=_MOST)
    chunk_size: int = field(100, "of them in memory at once", low=1, high=_MOST)


class Normal(NamedTuple):
    """q = N(loc, L L'), L = scale diag(exp(log_diagonal)) or scale (that + strictly lower).

    Attributes:
      loc: mean, in units of `scale` from `center`.
      log_diagonal: log of the diagonal of L, relative to `scale`.
      lower: strictly lower part, relative to `scale`; None for the diagonal family.
      center: mean of the encoder's q; not optimised.
      scale: Cholesky factor of its covariance; not optimised.
    """

    loc: Float[Array, "Z"]
    log_diagonal: Float[Array, "Z"]
    lower: Float[Array, "Z Z"] | None
    center: Float[Array, "Z"]
    scale: Float[Array, "Z Z"]


class Elbos(NamedTuple):
    """ELBOs of one example, nats, with the variances of their Monte-Carlo errors.

    Attributes:
      encoder: with the encoder's q; [2]: value, variance.
      best: with q* of each family, by name; [2] each.
    """

    encoder: Float[Array, "*N 2"]
    best: dict[str, Float[Array, "*N 2"]]


def problems(model: Model) -> list[str]:
    """Where normals over the latents are no family of q."""
    if not model.support.is_discrete:
        return []
    return [
        f"the best q of a family is sought among normals, and these latents are "
        f"{supports.described(model.support)}; leave it out, and use enumeration for log p(x)"
    ]


def start(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, family: str
) -> Normal:
    """The normal with the mean and (co)variance of 1024 samples of the encoder's q."""
    keys = jax.random.split(key, _START_SAMPLES)
    z = jax.vmap(lambda key: latents.sample_posterior(params, key, x, model=model))(keys)
    center, zeros = jnp.mean(z, axis=0), jnp.zeros(z.shape[1])
    if family == "diagonal":
        return Normal(zeros, zeros, None, center, jnp.diag(jnp.std(z, axis=0) + 1e-6))
    centered = z - center[None, :]
    covariance = centered.T @ centered / _START_SAMPLES
    scale = jnp.linalg.cholesky(covariance + 1e-6 * jnp.eye(z.shape[1]))
    return Normal(zeros, zeros, jnp.zeros_like(covariance), center, scale)


def _factor(normal: Normal) -> Float[Array, "Z Z"]:
    factor = jnp.diag(jnp.exp(normal.log_diagonal))
    return factor if normal.lower is None else factor + jnp.tril(normal.lower, -1)


def sample(normal: Normal, key: PRNGKeyArray) -> Float[Array, "Z"]:
    """z = center + scale (loc + L noise)."""
    noise = jax.random.normal(key, normal.loc.shape, normal.loc.dtype)
    return normal.center + normal.scale @ (normal.loc + _factor(normal) @ noise)


def log_density(normal: Normal, z: Float[Array, "Z"]) -> Float[Array, ""]:
    """log q(z), nats."""
    scaled = numerics.solve_lower(normal.scale, z - normal.center)
    noise = numerics.solve_lower(_factor(normal), scaled - normal.loc)
    log_det = jnp.sum(normal.log_diagonal) + jnp.sum(jnp.log(jnp.diag(normal.scale)))
    return jnp.sum(jax.scipy.stats.norm.logpdf(noise)) - log_det


def _ascend(
    weight: Callable[[PyTree, PRNGKeyArray], Float[Array, ""]],
    first: PyTree,
    key: PRNGKeyArray,
    *,
    config: Config,
    inputs: PyTree,
) -> PyTree:
    """Adam from `first` on the mean of `weight(free, key)` over fresh keys.

    The rate of a leaf is that of `config` divided by its number of `inputs`: a step then moves
    what comes out by about the rate, in networks of every width.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))

    def loss(free, keys):
        return -jnp.mean(jax.vmap(lambda key: weight(free, key))(keys))

    def step(carry, index):
        free, state = carry
        keys = jax.random.split(jax.random.fold_in(key, index), config.num_samples)
        updates, state = optimizer.update(jax.grad(loss)(free, keys), state)
        updates = jax.tree.map(jnp.divide, updates, inputs)
        return (optax.apply_updates(free, updates), state), None

    start = (first, optimizer.init(first))
    (free, _), _ = jax.lax.scan(step, start, jnp.arange(config.num_steps))
    return free


def optimize(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    family: str,
    config: Config,
) -> Normal:
    """q* of a family of normals for one x: Adam on the ELBO from the encoder's q.

    Gradients through z alone (Roeder, Wu and Duvenaud 2017): unbiased for the ELBO, and
    without variance where q reaches the posterior.
    """
    start_key, steps_key = jax.random.split(key)
    first = start(params, start_key, x, model=model, family=family)
    fixed = (first.center, first.scale)

    def weight(free, key):
        z = sample(Normal(*free, *fixed), key)
        frozen = Normal(*jax.lax.stop_gradient(free), *fixed)
        return latents.log_joint(params, x, z, model=model) - log_density(frozen, z)

    free = tuple(first[:3])
    inputs = jax.tree.map(lambda leaf: 1.0, free)
    return Normal(*_ascend(weight, free, steps_key, config=config, inputs=inputs), *fixed)


def _mean(log_weight, key: PRNGKeyArray, config: Config) -> Float[Array, "2"]:
    """Mean of `log_weight(key)` over fresh keys, and the variance of that mean."""
    keys = jax.random.split(key, config.elbo_samples)
    values = jax.lax.map(log_weight, keys, batch_size=min(config.chunk_size, len(keys)))
    return jnp.stack([jnp.mean(values), diagnostics.mean_variance(values)])


def elbos(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, config: Config
) -> Elbos:
    """ELBO of the encoder's q and of the best q of each family, for one example."""
    encoder_key, *family_keys = jax.random.split(key, 1 + len(FAMILIES))

    def encoder_weight(key):
        return importance.log_weights(importance.log_terms(params, key, x, model=model))

    best = {}
    for family, family_key in zip(FAMILIES, family_keys, strict=True):
        fit_key, elbo_key = jax.random.split(family_key)
        normal = optimize(params, fit_key, x, model=model, family=family, config=config)

        def weight(key, normal=normal):
            z = sample(normal, key)
            return latents.log_joint(params, x, z, model=model) - log_density(normal, z)

        best[family] = _mean(weight, elbo_key, config)
    return Elbos(_mean(encoder_weight, encoder_key, config), best)


def encoder_family(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model, config: Config
) -> Float[Array, "2"]:
    """max over phi' of E_q[log p(x, z) - log q(z)], q = q_phi'(z|x), for one x.

    The ELBO of the best q of the encoder's own family, L[q*] of Cremer et al. (2018): [2],
    value in nats and variance of its Monte-Carlo error; never above log p(x) in expectation.

    The encoder's phi is trained further on this x alone, for as many steps as a normal: what it
    gives stays within its family, be it a flow or a chain of layers. p(x, z) is held fixed, also
    where p(z) is made of encoders (VampPrior). Gradients go through z alone, as in `optimize`,
    but for flows whose density at a given z takes many passes: there through q's density, too.
    """
    fit_key, elbo_key = jax.random.split(key)
    prior = model.prior(params)

    def posterior(phi):
        return model.posterior(params | {"inference": phi}, x)

    def draw(free, key):
        if model.density_steps > 1:
            return distributions.sample_and_log_prob(posterior(free), key)
        z = posterior(free).sample(key)
        return z, posterior(jax.lax.stop_gradient(free)).log_prob(z)

    def weight(free, key):
        z, log_posterior = draw(free, key)
        return model.likelihood(params, z).log_prob(x) + prior.log_prob(z) - log_posterior

    phi = params["inference"]
    inputs = jax.tree.map(lambda leaf: float(math.prod(leaf.shape[:-1])), phi)
    free = _ascend(weight, phi, fit_key, config=config, inputs=inputs)
    return _mean(lambda key: weight(free, key), elbo_key, config)


def decompose(
    log_marginal: Float[np.ndarray, "N 2"],
    encoder: Float[np.ndarray, "N 2"],
    best: Float[np.ndarray, "N 2"],
) -> dict[str, Float[np.ndarray, "N 2"]]:
    """The three gaps per example, each [N, 2]: value and Monte-Carlo variance; float64."""
    log_marginal, encoder, best = (
        np.asarray(array, np.float64) for array in (log_marginal, encoder, best)
    )

    def difference(upper, lower):
        return np.stack([upper[:, 0] - lower[:, 0], upper[:, 1] + lower[:, 1]], axis=1)

    return {
        "inference": difference(log_marginal, encoder),
        "approximation": difference(log_marginal, best),
        "amortization": difference(best, encoder),
    }
