"""Mixtures of distributions of one vector [Z]."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.numerics import LOG_TWO_PI
from vaejax.types import Distribution


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormalMixture:
    """sum_m w_m N(z; loc_m, diag(scale_m)^2), with samples that can be differentiated.

    Attributes:
      log_weights: log w, normalised.
      loc, scale: of each component.
    """

    log_weights: Float[Array, "M"]
    loc: Float[Array, "M Z"]
    scale: Float[Array, "M Z"]

    @property
    def mean(self) -> Float[Array, "Z"]:
        """sum_m w_m loc_m."""
        return jnp.exp(self.log_weights) @ self.loc

    def sample(self, key: PRNGKeyArray) -> Float[Array, "Z"]:
        """One draw; its derivatives are the implicit ones, see `implicit`."""
        choice_key, noise_key = jax.random.split(key)
        index = jax.random.categorical(choice_key, self.log_weights)
        noise = jax.random.normal(noise_key, self.loc.shape[1:], self.loc.dtype)
        z = jax.lax.stop_gradient(self.loc[index] + self.scale[index] * noise)
        return implicit(self.log_weights, self.loc, self.scale, z)

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """In nats: log N_m = -z^2 . 1/(2 s_m^2) + z . loc_m/s_m^2 + const, two matrix products.

        Differences are lost where scales are small: values are counted from the middle of the
        components, and the largest term is computed a second time, from z - loc_m. Products
        are never rounded to TF32 or bfloat16.
        """
        center = jax.lax.stop_gradient(jnp.mean(self.loc, axis=0))
        z, loc = value - center, self.loc - center[None, :]
        precision = jnp.exp(-2.0 * jnp.log(self.scale))
        highest = {"precision": jax.lax.Precision.HIGHEST}
        terms = self._offsets() - 0.5 * jnp.sum(precision * loc**2, axis=1)
        terms += jnp.matmul(precision * loc, z, **highest)
        terms -= 0.5 * jnp.matmul(precision, z**2, **highest)
        total = jax.nn.logsumexp(terms)
        return total + jax.lax.stop_gradient(self._correction(value, terms, total))

    def _offsets(self) -> Float[Array, "M"]:
        log_det = jnp.sum(jnp.log(self.scale), axis=1)
        return self.log_weights - log_det - 0.5 * self.loc.shape[1] * LOG_TWO_PI

    def _correction(self, value, terms, total) -> Float[Array, ""]:
        """What the sum changes by when its largest term is replaced by a more exact one."""
        best = jnp.argmax(terms)
        noise = (value - self.loc[best]) / self.scale[best]
        better = self._offsets()[best] - 0.5 * jnp.sum(noise**2)
        return jnp.log1p(jnp.exp(terms[best] - total) * jnp.expm1(better - terms[best]))


@jax.custom_jvp
def implicit(
    log_weights: Float[Array, "M"],
    loc: Float[Array, "M Z"],
    scale: Float[Array, "M Z"],
    z: Float[Array, "Z"],
) -> Float[Array, "Z"]:
    """z, a sample of the mixture, with its implicit derivatives in the parameters.

    Figurnov, Mohamed and Mnih (2018), eq. 6 and 7: z_i moves so that F(z_i | z_<i), the
    conditional distribution function, stands still: dz_i = -dF / p(z_i | z_<i). One latent
    after another, O(Z M); unbiased for E[f(z)] of any smooth f. First derivatives alone.
    """
    return z


@implicit.defjvp
def _implicit_jvp(primals, tangents):
    *parameters, z = primals
    moved = lambda *parameters: _moved(*parameters, z)  # noqa: E731
    _, tangent = jax.jvp(moved, tuple(parameters), tuple(tangents[:-1]))
    return z, tangent


def _moved(log_weights, loc, scale, z):
    """z, as a function of the parameters whose ordinary derivatives are the implicit ones."""

    def step(log_weights, latent):
        loc, scale, fixed = latent
        noise = (fixed - loc) / scale
        weights = jax.nn.softmax(log_weights)
        normal = jax.scipy.stats.norm
        below = weights @ normal.cdf(noise)
        # F and F - 1 have the same derivatives; the smaller one keeps its digits.
        cdf = jnp.where(below < 0.5, normal.cdf(noise), -normal.cdf(-noise))
        value = weights @ cdf
        density = jax.lax.stop_gradient(weights @ (jnp.exp(normal.logpdf(noise)) / scale))
        own = fixed - (value - jax.lax.stop_gradient(value)) / density
        log_density = normal.logpdf((own - loc) / scale) - jnp.log(scale)
        return log_weights + log_density, own

    return jax.lax.scan(step, log_weights, (loc.T, scale.T, z))[1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """The mean of M densities of any family; samples cannot be differentiated.

    Attributes:
      components: one distribution with a leading axis [M] in all its arrays, as `vmap` over a
        function that returns a distribution makes it.
    """

    components: Distribution

    @property
    def _size(self) -> int:
        return jax.tree.leaves(self.components)[0].shape[0]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "Z"]:
        """One draw of a component drawn uniformly."""
        choice_key, own_key = jax.random.split(key)
        index = jax.random.randint(choice_key, (), 0, self._size)
        return jax.tree.map(lambda leaf: leaf[index], self.components).sample(own_key)

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """log((1/M) sum_m p_m(z)), in nats."""
        terms = jax.vmap(lambda component: component.log_prob(value))(self.components)
        return jax.nn.logsumexp(terms) - math.log(self._size)


def as_normals(distribution: Distribution) -> NormalMixture | None:
    """A distribution as a mixture of diagonal normals, where it is one; else None."""
    if isinstance(distribution, NormalMixture):
        return distribution
    if is_diagonal_normal(distribution):
        base = distribution.base_dist
        loc, scale = jnp.broadcast_arrays(base.loc, base.scale)
        return NormalMixture(jnp.zeros(1, loc.dtype), loc[None], scale[None])
    return None


def is_diagonal_normal(distribution: Distribution) -> bool:
    """Whether its values are independent normals."""
    return isinstance(distribution, dist.Independent) and isinstance(
        distribution.base_dist, dist.Normal
    )
