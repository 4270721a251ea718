"""A model with two latents, integrated over the plane of z: log p(x), the posterior, KL.

On a square far wider than the density both rules converge exponentially in the number of
nodes: the trapezoidal one with an error like exp(-2 pi^2 s^2 / h^2), s the width of the
density and h the step (Trefethen and Weideman 2014), Gauss-Legendre at nodes that are none
of its own. The ELBO is integrated at Gauss-Hermite nodes that follow q.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vaejax.evidence.estimators import quadrature
from vaejax.models import latents
from vaejax.types import Model, Params


class Rule(NamedTuple):
    """A quadrature rule over the plane: the integral of f is sum_m exp(log_weights_m) f(z_m).

    Attributes:
      nodes: points z on a product grid, the second coordinate fastest, [M, 2].
      log_weights: log of the area each stands for, [M].
    """

    nodes: Float[Array, "M 2"]
    log_weights: Float[Array, "M"]


def _product(axis: Float[np.ndarray, "G"], weights: Float[np.ndarray, "G"], half_width) -> Rule:
    """`half_width` may be traced."""
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_weights = np.add.outer(np.log(weights), np.log(weights)).ravel()
    return Rule(half_width * nodes, log_weights + 2.0 * jnp.log(half_width))


def trapezoidal(half_width: float | Float[Array, ""], nodes_per_axis: int) -> Rule:
    """Equal steps on [-half_width, half_width]^2."""
    axis = np.linspace(-1.0, 1.0, nodes_per_axis)
    return _product(axis, np.full(nodes_per_axis, axis[1] - axis[0]), half_width)


def gauss_legendre(half_width: float | Float[Array, ""], nodes_per_axis: int) -> Rule:
    """Gauss-Legendre nodes on [-half_width, half_width]^2."""
    return _product(*np.polynomial.legendre.leggauss(nodes_per_axis), half_width)


def _normal(params: Params, x: Float[Array, "..."], *, model: Model):
    """Mean of q(z|x) and its covariance: minus the inverse Hessian of log q, which is normal."""
    q = model.posterior(params, x)
    precision = -jax.hessian(q.log_prob)(q.mean)
    return q.mean, jnp.linalg.inv(precision)


def reach(params: Params, x: Float[Array, "..."], *, model: Model) -> Float[Array, ""]:
    """Half the side of a square around 0 that holds 8 standard deviations of prior and q."""
    loc, covariance = _normal(params, x, model=model)
    return jnp.maximum(8.0, jnp.max(jnp.abs(loc) + 8.0 * jnp.sqrt(jnp.diag(covariance))))


def log_joint(
    params: Params, x: Float[Array, "..."], rule: Rule, *, model: Model
) -> Float[Array, "M"]:
    """log p(x, z) at every node, in nats; under `vmap` over x the nodes are decoded once."""
    at_node = lambda z: latents.log_joint(params, x, z, model=model)  # noqa: E731
    return jax.vmap(at_node)(jnp.asarray(rule.nodes, x.dtype))


def log_marginal(log_joint: Float[Array, "M"], rule: Rule) -> Float[Array, ""]:
    """log p(x), the log of the integral of p(x, z) over z, in nats."""
    return jax.nn.logsumexp(log_joint + jnp.asarray(rule.log_weights, log_joint.dtype))


def log_posterior(
    params: Params, x: Float[Array, "..."], rule: Rule, *, model: Model
) -> Float[Array, "M"]:
    """log q(z|x) at every node, in nats."""
    return jax.vmap(model.posterior(params, x).log_prob)(jnp.asarray(rule.nodes, x.dtype))


def kl(
    log_joint: Float[Array, "M"], log_posterior: Float[Array, "M"], rule: Rule
) -> Float[Array, ""]:
    """KL(q(z|x) || p(z|x)) as a sum over nodes, p(z|x) normalised on them, in nats."""
    true = log_joint - log_marginal(log_joint, rule)
    weights = jnp.exp(log_posterior + jnp.asarray(rule.log_weights, log_joint.dtype))
    return jnp.sum(weights * (log_posterior - true))


def elbo(
    params: Params, x: Float[Array, "..."], *, model: Model, num_nodes: int
) -> Float[Array, ""]:
    """E_q[log p(x|z)] by num_nodes^2 Gauss-Hermite nodes under q, minus KL(q || p(z)); nats."""
    loc, covariance = _normal(params, x, model=model)
    nodes, log_weights = quadrature.grid(num_nodes, 2)
    z = loc[None] + jnp.asarray(nodes, x.dtype) @ jnp.linalg.cholesky(covariance).T
    log_likelihood = jax.vmap(lambda z: model.likelihood(params, z).log_prob(x))(z)
    expected = jnp.asarray(np.exp(log_weights), x.dtype) @ log_likelihood
    return expected - jnp.sum(model.kl_groups(params, x))
