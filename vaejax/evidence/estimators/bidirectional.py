"""Bidirectional Monte Carlo: log p(x) from both sides, on x simulated by the model.

For simulated data the distance between the sides bounds the error of AIS. For real data it
is evidence about the budget, not a guarantee: their posteriors may be harder.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from vaejax.evidence import annealing
from vaejax.evidence import figures as plots
from vaejax.evidence.estimators import annealed
from vaejax.models import latents
from vaejax.objectives import bounds
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

LABELS = {"lower": "lower bound", "upper": "upper bound"}
JUDGE = None
REPORT = "sandwich"


@dataclasses.dataclass(frozen=True)
class Config(annealing.Budget):
    """The budget of annealed chains, spent twice, on simulated examples."""

    num_simulated: int = field(100, "examples simulated from the model", low=2, high=2**31 - 1)


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """As `annealed`; every model can be simulated from."""
    return annealed.start_problems("bidirectional", config, model=model)


def _summarize_reverse(chains: annealing.Chain) -> Evidence:
    """-log((1/C) sum_c 1/w_c). A broken chain leaves no bound: the value is NaN."""
    inverse = -chains.log_weight
    broken = ~jnp.isfinite(inverse)
    inverse = jnp.where(broken, jnp.nan, inverse)
    below = annealed.summarize(chains._replace(log_weight=inverse))
    value = jnp.where(jnp.any(broken), jnp.nan, -bounds.iwae(inverse))
    return below._replace(value=value)


def build(config: Config, *, model: Model) -> Estimator:
    """Forward chains from f_0 and reverse chains from z* (Grosse et al. 2015, section 3).

    The variance of the upper side is that of the chains given z*; all of them start there,
    so their error is best read off the spread of the gap over simulated examples.
    """

    def estimate(params, key, x, tuning):
        del x  # the example is made here
        simulate_key, path_key, forward_key, reverse_key = jax.random.split(key, 4)
        z, x = latents.simulate(params, simulate_key, model=model)
        path = annealing.make_path(params, path_key, x, model=model, start=config.start)
        options = {"num_leapfrog": config.num_leapfrog}
        forward = jax.vmap(lambda key: annealing.forward(key, path, tuning, **options))
        reverse = jax.vmap(
            lambda key: annealing.reverse(key, ravel_pytree(z)[0], path, tuning, **options)
        )
        lower = annealed.summarize(forward(jax.random.split(forward_key, config.num_chains)))
        upper = _summarize_reverse(reverse(jax.random.split(reverse_key, config.num_chains)))
        return {"lower": lower, "upper": upper}

    def pilot(params, key, x):
        simulate_key, pilot_key = jax.random.split(key)
        keys = jax.random.split(simulate_key, config.pilot_examples)
        simulated = jax.vmap(lambda key: latents.simulate(params, key, model=model)[1])(keys)
        return annealing.pilot(params, pilot_key, simulated, model=model, budget=config)

    work = 2 * config.num_chains * config.num_temperatures * config.num_leapfrog
    return Estimator(
        pilot,
        estimate,
        rows=config.num_chains,
        work=work,
        num_examples=config.num_simulated,
    )


def figures(results: dict[str, Evidence], tuning: annealing.Schedule) -> dict[str, Figure]:
    """Acceptance, step size and temperature along the forward chain."""
    acceptance = np.mean(results["lower"].diagnostics.acceptance, axis=0)
    return {"bidirectional_moves": plots.annealing(*tuning, acceptance)}
