"""log p(x) as the sum over all states of discrete latents."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vaejax.evidence.diagnostics import Watched
from vaejax.models import latents, supports
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

LABELS = {"enumeration": "exact"}
JUDGE = 1
REPORT = "rows"
MOST_STATES = 2**20


@dataclasses.dataclass(frozen=True)
class Config:
    """Budget."""

    chunk_size: int = field(4096, "states in memory at once", low=1, high=2**31 - 1)


class Diagnostics(NamedTuple):
    """Attributes:

    effective_states: exp of the posterior's entropy: how many states share its mass.
    """

    effective_states: Float[Array, "*N"]

    def watched(self) -> Watched:
        """Its mean over examples."""
        return Watched({}, {"effective_states": float(np.mean(self.effective_states))})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """Discrete latents alone, and not too many of them."""
    if not model.support.is_discrete:
        return [
            "enumeration: this model's latents are real vectors, which cannot be counted; use "
            "quadrature (up to 3 latents) or annealed"
        ]
    count = supports.num_states(model.support, num_latents)
    if count > MOST_STATES:
        size = f"2^{count.bit_length() - 1}" if count.bit_count() == 1 else f"{float(count):.3g}"
        return [
            f"enumeration: at most 2^20 states, the {num_latents} latents of this model have "
            f"{size}; use gibbs"
        ]
    return []


def log_joints(
    params, x: Float[Array, "..."], *, model: Model, chunk_size: int = 4096
) -> Float[Array, "S"]:
    """log p(x, z) of every state z, in the order of `supports.state`, in nats.

    Their logsumexp is log p(x), their softmax the posterior p(z|x).
    """
    size, _ = latents.unraveller(params, model=model)
    count = supports.num_states(model.support, size)

    def one(number):
        z = supports.state(model.support, size, number)
        return latents.log_joint(params, x, z, model=model)

    return jax.lax.map(one, jnp.arange(count), batch_size=min(chunk_size, count))


def build(config: Config, *, model: Model) -> Estimator:
    """log sum_z p(x, z), without error but that of rounding."""

    def estimate(params, key, x, tuning):
        terms = log_joints(params, x, model=model, chunk_size=config.chunk_size)
        value = jax.nn.logsumexp(terms)
        share = jnp.exp(terms - value)
        entropy = -jnp.sum(jnp.where(share > 0.0, share * (terms - value), 0.0))
        watched = Diagnostics(jnp.exp(entropy))
        found = Evidence(value, jnp.zeros_like(value), jnp.isfinite(value), watched)
        return {"enumeration": found}

    # The number of states is known with the parameters alone.
    return Estimator(lambda params, key, x: (), estimate, rows=config.chunk_size, work=MOST_STATES)


def figures(results: dict[str, Evidence], tuning: tuple) -> dict[str, Figure]:
    """None."""
    return {}
