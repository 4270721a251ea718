"""Factor analysis with one noise scale: the VAE whose every quantity is known exactly.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), so log p(x) = log N(x; b, W W' + s^2 I) and the
posterior is normal with a mean linear in x (Tipping and Bishop 1999, eq. 4 to 7). It is the
composition of a normal prior, a `linear` decoder and a `normal` likelihood.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vaejax import numerics
from vaejax.models import mixtures
from vaejax.models.likelihoods import Likelihood
from vaejax.models.mixtures import NormalMixture
from vaejax.models.networks import Network
from vaejax.types import Model, Params

_AT_ONCE = 16  # components, each with a matrix [D, Z] of its own


class LinearGaussian(NamedTuple):
    """The parameters of p(x, z).

    Attributes:
      weights: W.
      bias: b.
      log_scale: log s.
    """

    weights: Float[Array, "D Z"]
    bias: Float[Array, "D"]
    log_scale: Float[Array, ""]


class LinearPosterior(NamedTuple):
    """q(z|x) = N(A x + c, L L').

    Attributes:
      weights: A.
      bias: c.
      factor: L, lower triangular.
    """

    weights: Float[Array, "Z D"]
    bias: Float[Array, "Z"]
    factor: Float[Array, "Z Z"]


def _capacitance(model: LinearGaussian) -> Float[Array, "Z Z"]:
    """Cholesky factor of s^2 I + W' W."""
    variance = jnp.exp(2.0 * model.log_scale)
    size = model.weights.shape[1]
    return jnp.linalg.cholesky(variance * jnp.eye(size) + model.weights.T @ model.weights)


def log_marginal(model: LinearGaussian, x: Float[Array, "..."]) -> Float[Array, ""]:
    """log N(x; b, W W' + s^2 I) in nats, by the matrix inversion lemma in Z dimensions."""
    size, latent_dim = model.weights.shape
    residual = x.reshape(-1) - model.bias
    factor = _capacitance(model)
    projected = numerics.solve_lower(factor, model.weights.T @ residual)
    quadratic = (jnp.sum(residual**2) - jnp.sum(projected**2)) * jnp.exp(-2.0 * model.log_scale)
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diag(factor)))
    log_det += 2.0 * (size - latent_dim) * model.log_scale
    return -0.5 * (quadratic + log_det + size * numerics.LOG_TWO_PI)


def log_marginal_of_mixture(
    model: LinearGaussian, prior: NormalMixture, x: Float[Array, "..."]
) -> Float[Array, ""]:
    """log sum_m w_m N(x; W loc_m + b, W diag(scale_m)^2 W' + s^2 I), in nats.

    The exact log p(x) where p(z) is a mixture of diagonal normals: component m is the model
    with weights W diag(scale_m) and bias W loc_m + b.
    """

    def component(loc, scale):
        bias = model.bias + model.weights @ loc
        own = model._replace(weights=model.weights * scale[None, :], bias=bias)
        return log_marginal(own, x)

    terms = jax.lax.map(lambda own: component(*own), (prior.loc, prior.scale), batch_size=_AT_ONCE)
    return jax.nn.logsumexp(prior.log_weights + terms)


def log_marginal_of(
    model: Model, decoders: Sequence[Network], likelihood: Likelihood
) -> Callable | None:
    """`(params, x) -> log p(x)` of a model of these parts; None: not known.

    Known with one layer where p(z) is a mixture of diagonal normals and p(x|z) linear and normal.
    """
    if len(decoders) > 1 or decoders[0].affine is None or likelihood.log_scale is None:
        return None
    components = lambda params: mixtures.as_normals(model.prior(params))  # noqa: E731
    if jax.eval_shape(lambda key: components(model.init(key)), jax.random.key(0)) is None:
        return None

    def exact(params, x):
        theta = params["generative"]
        matrix, bias = decoders[0].affine(theta["decoders"][0])
        own = LinearGaussian(matrix, bias, likelihood.log_scale(theta["likelihood"]))
        return log_marginal_of_mixture(own, components(params), x)

    return exact


def exact_posterior(model: LinearGaussian) -> LinearPosterior:
    """p(z|x) for every x.

    Mean M^-1 W'(x - b), covariance s^2 M^-1, M = s^2 I + W'W (Tipping and Bishop 1999, eq. 7).
    """
    factor = _capacitance(model)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(factor.shape[0]))
    inverse = 0.5 * (inverse + inverse.T)
    weights = inverse @ model.weights.T
    cholesky = jnp.linalg.cholesky(inverse) * jnp.exp(model.log_scale)
    return LinearPosterior(weights, -weights @ model.bias, cholesky)


def of(params: Params) -> LinearGaussian:
    """W, b and s of the parameters of a model with a `linear` decoder and `normal` likelihood."""
    generative = params["generative"]
    dense = generative["decoders"][0]["params"]["Dense_0"]
    return LinearGaussian(dense["kernel"].T, dense["bias"], generative["likelihood"]["log_scale"])


def posterior_of(params: Params) -> LinearPosterior:
    """A, c and L of parameters with a `linear` encoder and a posterior of a shared scale."""
    dense = params["inference"]["encoders"][0]["params"]["Dense_0"]
    own = params["inference"]["posteriors"][0]
    if "log_scale" in own:
        factor = jnp.diag(jnp.exp(own["log_scale"]))
    else:
        rows = jnp.tril_indices(own["log_diagonal"].shape[0], -1)
        factor = jnp.diag(jnp.exp(own["log_diagonal"])).at[rows].set(own["lower"])
    return LinearPosterior(dense["kernel"].T, dense["bias"], factor)


def generative_params(model: LinearGaussian) -> PyTree:
    """The `generative` parameters that stand for `model`."""
    dense = {"kernel": jnp.asarray(model.weights).T, "bias": jnp.asarray(model.bias)}
    return {
        "prior": {},
        "layers": [],
        "decoders": [{"params": {"Dense_0": dense}}],
        "likelihood": {"log_scale": jnp.asarray(model.log_scale)},
    }


def inference_params(posterior: LinearPosterior) -> PyTree:
    """The `inference` parameters (`linear`, `full_normal(shared_scale=True)`) of `posterior`."""
    rows = jnp.tril_indices(posterior.factor.shape[0], -1)
    own = {
        "log_diagonal": jnp.log(jnp.diag(posterior.factor)),
        "lower": posterior.factor[rows],
    }
    dense = {"kernel": posterior.weights.T, "bias": posterior.bias}
    return {"encoders": [{"params": {"Dense_0": dense}}], "posteriors": [own]}
