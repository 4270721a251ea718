"""Distributions over finitely many latents; samples of them have no derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax import numerics
from vaejax.models import conditioners


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneHot:
    """Independent choices, each of one of C classes: a flat vector of groups of C values.

    numpyro's has integers for values, which networks do not take.

    Attributes:
      logits: of each choice; they need not be normalised.
    """

    logits: Float[Array, "G C"]

    @property
    def mean(self) -> Float[Array, "Z"]:
        """The probabilities of all classes."""
        return jax.nn.softmax(self.logits, axis=1).reshape(-1)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "Z"]:
        """1 at the class of each choice, else 0."""
        chosen = jax.random.categorical(key, self.logits, axis=1)
        return jax.nn.one_hot(chosen, self.logits.shape[1], dtype=self.logits.dtype).reshape(-1)

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """In nats."""
        return value @ jax.nn.log_softmax(self.logits, axis=1).reshape(-1)


@dataclasses.dataclass(frozen=True)
class AutoregressiveBernoulli:
    """p(z) = prod_i Bernoulli(z_i; sigmoid(l_i(z_<i) / T)), one masked network for all i.

    A mass is one pass of the network, a sample takes Z of them. It has no `mean`.

    Attributes:
      params: of the network.
      masks: of the network.
      temperature: T.
    """

    params: PyTree
    masks: conditioners.Masks
    temperature: float | Float[Array, ""] = 1.0

    def _logits(self, z: Float[Array, "Z"]) -> Float[Array, "Z"]:
        return conditioners.apply(self.params, z, self.masks) / self.temperature

    def sample(self, key: PRNGKeyArray) -> Float[Array, "Z"]:
        """0 or 1 in each value, drawn one after another."""
        size = self.masks[0].shape[0]

        def step(z, item):
            index, key = item
            drawn = jax.random.bernoulli(key, jax.nn.sigmoid(self._logits(z)[index]))
            return z.at[index].set(drawn.astype(z.dtype)), None

        start = jnp.zeros(size, self.params[-1]["bias"].dtype)
        return jax.lax.scan(step, start, (jnp.arange(size), jax.random.split(key, size)))[0]

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """In nats."""
        return numerics.bernoulli_log_prob(self._logits(value), value)
