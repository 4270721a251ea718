"""Distributions of this package's own, and what all of them are asked, ours and numpyro's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import numerics
from vaejax.types import Distribution, Latent


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent pixels in {0, 1}, from logits of any shape.

    Ours instead of numpyro's: its log density is one fused pass (`numerics.bernoulli_log_prob`),
    and finite for every finite logit.
    """

    logits: Float[Array, "..."]

    @property
    def mean(self) -> Float[Array, "..."]:
        """sigmoid(logits)."""
        return jax.nn.sigmoid(self.logits)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """0 or 1 in each pixel."""
        return jax.random.bernoulli(key, self.mean).astype(self.logits.dtype)

    def log_prob(self, value: Float[Array, "..."]) -> Float[Array, ""]:
        """Summed over all pixels, in nats."""
        return numerics.bernoulli_log_prob(self.logits, value)


Step = Callable[[Any, Float[Array, "..."]], tuple[Any, Distribution]]
Draw = Callable[[Distribution, PRNGKeyArray], Float[Array, "..."]]


class FullNormal(dist.MultivariateNormal):
    """N(loc, L L'), which draws z and its log density in one pass.

    numpyro's density solves a triangular system, also for a z that was just drawn as
    loc + L u, where u is at hand; for any other z, `numerics.solve_lower` solves it.
    """

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "Z"], Float[Array, ""]]:
        """(loc + L u, log N(u; 0, I) - log det L), u ~ N(0, I); z is that of `sample`."""
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self.loc + self.scale_tril @ noise, self._log_prob_of(noise)

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """log N(z; loc, L L') of one z, in nats."""
        return self._log_prob_of(numerics.solve_lower(self.scale_tril, value - self.loc))

    def _log_prob_of(self, noise: Float[Array, "Z"]) -> Float[Array, ""]:
        log_diagonal = jnp.log(jnp.diagonal(self.scale_tril))
        return -jnp.sum(0.5 * noise**2 + log_diagonal + 0.5 * numerics.LOG_TWO_PI)


@dataclasses.dataclass(frozen=True)
class Chain:
    """z = (z_1, .., z_L), drawn one layer after another; a tuple with one array per layer.

    Attributes:
      first: of the layer that is drawn first.
      following: one function for each other layer, from what was carried on and the layer just
        drawn to what is carried on further and the distribution of the next layer. A
        deterministic path down a hierarchy is carried; the first is given None.
      top_down: whether z_L is drawn first (a prior, or a top-down q) or z_1 (an encoder).
    """

    first: Distribution
    following: tuple[Step, ...]
    top_down: bool

    def _ordered(self, items: tuple) -> tuple:
        return items[::-1] if self.top_down else items

    def _walk(self, visit: Callable[[int, Distribution], Any]) -> None:
        """Goes through the layers; `visit` says of layer number i, in that order, its value."""
        carry, layer = None, self.first
        for index, step in enumerate(self.following):
            carry, layer = step(carry, visit(index, layer))
        visit(len(self.following), layer)

    def _draw(self, draw: Draw, key: PRNGKeyArray) -> tuple[list, list]:
        keys = jax.random.split(key, 1 + len(self.following))
        layers, z = [], []

        def visit(index, layer):
            layers.append(layer)
            z.append(draw(layer, keys[index]))
            return z[-1]

        self._walk(visit)
        return layers, z

    def sample(self, key: PRNGKeyArray) -> Latent:
        """One draw of all layers, from the layer next to the data on."""
        return self.drawn_by(lambda layer, key: layer.sample(key), key)

    def drawn_by(self, draw: Draw, key: PRNGKeyArray) -> Latent:
        """As `sample`, with `draw(layer, key)` for the sample of each layer."""
        return self._ordered(tuple(self._draw(draw, key)[1]))

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Latent, Float[Array, ""]]:
        """`sample` and the log density of what it draws, in one pass through the layers."""
        keys = jax.random.split(key, 1 + len(self.following))
        drawn = []

        def visit(index, layer):
            drawn.append(sample_and_log_prob(layer, keys[index]))
            return drawn[-1][0]

        self._walk(visit)
        z, log_probs = zip(*drawn, strict=True)
        return self._ordered(z), sum(log_probs[1:], log_probs[0])

    def log_prob(self, value: Latent) -> Float[Array, ""]:
        """The sum of the layers' log densities, each given the layers drawn before it."""
        z, log_probs = self._ordered(value), []

        def visit(index, layer):
            log_probs.append(layer.log_prob(z[index]))
            return z[index]

        self._walk(visit)
        return sum(log_probs[1:], log_probs[0])

    def layer_means(self, key: PRNGKeyArray) -> Latent:
        """The mean of each layer given a sample of those before it; the first one's is exact.

        A layer without a `mean` gives its sample, whose expectation is the mean.
        """
        layers, z = self._draw(lambda layer, key: layer.sample(key), key)
        return self._ordered(tuple(map(_mean_or, layers, z)))


def sample_and_log_prob(
    distribution: Distribution, key: PRNGKeyArray
) -> tuple[Any, Float[Array, ""]]:
    """One draw and its log density, in one pass where the distribution knows how."""
    if hasattr(distribution, "sample_and_log_prob"):
        return distribution.sample_and_log_prob(key)
    value = distribution.sample(key)
    return value, distribution.log_prob(value)


def _mean_or(distribution: Distribution, sample: Float[Array, "..."]) -> Float[Array, "..."]:
    return distribution.mean if hasattr(distribution, "mean") else sample


def layer_means(distribution: Distribution, key: PRNGKeyArray) -> list[Float[Array, "..."]]:
    """Per stochastic layer its mean, given a sample of the layers before it.

    A sample in place of a mean that is not known: averages over keys are the mean in both
    cases, and the spread over keys is the noise of that average.
    """
    if hasattr(distribution, "layer_means"):
        return list(distribution.layer_means(key))
    return [_mean_or(distribution, distribution.sample(key))]
