"""Adaptive Gauss-Hermite quadrature of p(x, z) over up to three latents."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from vaejax.evidence.diagnostics import Watched
from vaejax.models import latents, supports
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

LABELS = {"quadrature": "estimate"}
JUDGE = 2
REPORT = "rows"
MAX_LATENTS = 3
TRUSTED_ERROR = 1e-3
_STARTS = 16
_NEWTON_STEPS = 30
_MOMENT_ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class Config:
    """Budget."""

    num_nodes: int = field(48, "nodes per latent", low=8, high=100)
    chunk_size: int = field(4096, "nodes in memory at once", low=1, high=2**31 - 1)


class Diagnostics(NamedTuple):
    """Attributes:

    loc: mean of the normal that the nodes follow: the posterior mean.
    covariance: its covariance: that of the posterior.
    """

    loc: Float[Array, "*N Z"]
    covariance: Float[Array, "*N Z Z"]

    def watched(self) -> Watched:
        """Nothing that a mean over examples would say."""
        return Watched({}, {})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Cost grows as num_nodes to the number of latents, which must be real."""
    if model.support.is_discrete:
        return [
            f"quadrature: integrates over real latents, these are "
            f"{supports.described(model.support)}; use enumeration, up to 2^20 states, or "
            f"importance"
        ]
    if num_latents > MAX_LATENTS:
        return [
            f"quadrature: at most {MAX_LATENTS} latents, this model has {num_latents} "
            f"({config.num_nodes}^{num_latents} nodes); use annealed or smc"
        ]
    return []


def grid(num_nodes: int, num_latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes t [M, Z] and log weights [M] with sum_m exp(log w_m) f(t_m) ~ E_N(0,I)[f]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    log_weights = np.log(weights) - 0.5 * np.log(2.0 * np.pi)
    points = np.array(list(itertools.product(nodes, repeat=num_latents)))
    log_products = list(map(sum, itertools.product(log_weights, repeat=num_latents)))
    return points, np.array(log_products)


def find_mode(log_density, starts: Float[Array, "S Z"]) -> Float[Array, "Z"]:
    """The mode uphill of the best start, by damped Newton steps (Levenberg 1944)."""
    identity = jnp.eye(starts.shape[-1])

    def step(_, carry):
        z, value, damping = carry
        hessian, gradient = -jax.hessian(log_density)(z), jax.grad(log_density)(z)
        smallest = jnp.linalg.eigvalsh(hessian)[0]
        ridge = damping + jnp.maximum(-1.5 * smallest, 0.0)
        candidate = z + jnp.linalg.solve(hessian + ridge * identity, gradient)
        new_value = log_density(candidate)
        better = new_value > value
        pick = lambda new, old: jnp.where(better, new, old)  # noqa: E731
        damping = jnp.where(better, damping / 5.0, damping * 5.0 + 1e-3)
        return pick(candidate, z), pick(new_value, value), damping

    values = jax.vmap(log_density)(starts)
    best = jnp.argmax(values)
    carry = (starts[best], values[best], jnp.asarray(1e-3, starts.dtype))
    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, carry)[0]


def _laplace_factor(log_density, mode: Float[Array, "Z"]) -> Float[Array, "Z Z"]:
    """Cholesky factor of the inverse Hessian at the mode, eigenvalues kept in [1e-3, 1e8]."""
    values, vectors = jnp.linalg.eigh(-jax.hessian(log_density)(mode))
    return jnp.linalg.cholesky((vectors / jnp.clip(values, 1e-3, 1e8)[None, :]) @ vectors.T)


def integrate(log_density, loc, factor, *, nodes, log_weights, chunk_size):
    """log of the integral of exp(log_density), and its moments, with nodes at N(loc, LL').

    The sum of w f(z) / N(z; loc, LL') over nodes z = loc + L t.
    """
    points = jnp.asarray(nodes, loc.dtype)
    log_scale = jnp.sum(jnp.log(jnp.diag(factor))) + 0.5 * loc.shape[0] * jnp.log(2.0 * jnp.pi)
    offset = jnp.asarray(log_weights + 0.5 * np.sum(nodes**2, axis=-1), loc.dtype)
    z = loc[None, :] + points @ factor.T
    terms = jax.lax.map(log_density, z, batch_size=min(chunk_size, len(nodes))) + offset
    share = jax.nn.softmax(terms)
    mean = share @ z
    centered = z - mean[None, :]
    covariance = (share[:, None] * centered).T @ centered
    return jax.nn.logsumexp(terms) + log_scale, mean, covariance


def build(config: Config, *, model: Model) -> Estimator:
    """Nodes start at the mode with the curvature there, then follow the posterior's mean
    and covariance (Naylor and Smith 1982). The error is the distance to the rule with a
    quarter of the nodes fewer, and rounding: not Monte Carlo, and blind to a mode that no
    node sees.
    """

    def starts(params, key, x):
        posterior_keys, prior_keys = jax.random.split(key, (2, _STARTS))
        near = jax.vmap(lambda k: latents.sample_posterior(params, k, x, model=model))
        wide = jax.vmap(lambda k: latents.sample_prior(params, k, model=model))
        return jnp.concatenate([near(posterior_keys), wide(prior_keys)])

    def estimate(params, key: PRNGKeyArray, x, tuning):
        num_latents, _ = latents.unraveller(params, model=model)
        log_density = lambda z: latents.log_joint(params, x, z, model=model)  # noqa: E731
        rules = [grid(size, num_latents) for size in (config.num_nodes, 3 * config.num_nodes // 4)]

        def rule(nodes, loc, factor):
            return integrate(
                log_density,
                loc,
                factor,
                nodes=nodes[0],
                log_weights=nodes[1],
                chunk_size=config.chunk_size,
            )

        def follow(_, normal):
            _, mean, covariance = rule(rules[1], *normal)
            jitter = 1e-6 * jnp.trace(covariance) * jnp.eye(num_latents)
            return mean, jnp.linalg.cholesky(covariance + jitter)

        mode = find_mode(log_density, starts(params, key, x))
        normal = (mode, _laplace_factor(log_density, mode))
        normal = jax.lax.fori_loop(0, _MOMENT_ROUNDS, follow, normal)
        value, mean, covariance = rule(rules[0], *normal)
        rounding = 8.0 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        error = jnp.abs(value - rule(rules[1], *normal)[0]) + rounding
        watched = Diagnostics(mean, covariance)
        return {"quadrature": Evidence(value, error**2, error <= TRUSTED_ERROR, watched)}

    # The number of nodes is num_nodes^Z: the model says Z only once it has parameters.
    work = _MOMENT_ROUNDS * config.num_nodes**2
    return Estimator(lambda params, key, x: (), estimate, rows=config.chunk_size, work=work)


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """None."""
    return {}
