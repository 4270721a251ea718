"""Everything that is estimated for one example from its K samples, over a data set.

Sample j of example i always uses the key fold_in(fold_in(key, i), j), so no result depends
on batch size, memory or device count beyond rounding.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray

from vaejax import keys
from vaejax.evaluation import mapping
from vaejax.evaluation.mapping import Budget, ExampleMap
from vaejax.evidence import diagnostics, weights
from vaejax.evidence.weights import Weights
from vaejax.models import distributions
from vaejax.objectives import importance
from vaejax.types import Model, Params

ACTIVE_THRESHOLD = 0.01
_ACTIVITY_SAMPLES = 64  # for the means of deeper layers, and of a q that does not know its own


class PerExample(NamedTuple):
    """What one example contributes; [N] each once stacked, nats.

    Attributes:
      weights: what the K samples say.
      exact: what is known in closed form: "kl_closed_form", "log_marginal", where it is.
      unit_means: E_q[u] per stochastic layer, a list of [U].
      unit_noise: Monte-Carlo variance of those means.
    """

    weights: Weights
    exact: dict[str, Float[Array, "*N"]]
    unit_means: list[Float[Array, "*N U"]]
    unit_noise: list[Float[Array, "*N U"]]


def key_of(seed: int, split: str) -> PRNGKeyArray:
    """The key of a split's samples.

    A run validates while it trains with the samples of an evaluation of its validation
    split, which therefore gives the very numbers that it logged; no two splits share any.
    """
    return keys.domain(seed, f"evaluation/{split}")


def evaluate(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
) -> PerExample:
    """All estimates for one example from one set of K samples; pure."""
    terms = importance.chunked_log_terms(
        params, key, x, model=model, num_samples=num_samples, chunk_size=chunk_size
    )
    exact = {}
    if model.kl_groups is not None:
        exact["kl_closed_form"] = jnp.sum(model.kl_groups(params, x))
    if model.log_marginal is not None:
        exact["log_marginal"] = model.log_marginal(params, x)
    moments = _unit_moments(params, keys.within(key, "evaluation/activity"), x, model=model)
    return PerExample(
        weights.summarize(terms), exact, [mean for mean, _ in moments], [v for _, v in moments]
    )


def _unit_moments(params, key, x, *, model):
    """Per layer (E_q[u], variance of its estimate); a first layer that knows its mean is exact."""
    posterior = model.posterior(params, x)
    sample_keys = jax.random.split(key, _ACTIVITY_SAMPLES)
    means = jax.vmap(lambda key: distributions.layer_means(posterior, key))(sample_keys)
    return [diagnostics.mean_moments(layer) for layer in means]


def dtype(params: Params, x: Num[np.ndarray, "N ..."], *, model: Model) -> np.dtype:
    """The type in which the estimates of these parameters are computed."""
    one = functools.partial(evaluate, model=model, num_samples=1, chunk_size=1)
    shape = jax.eval_shape(one, params, jax.random.key(0), jnp.asarray(mapping.as_float(x[:1]))[0])
    return shape.weights.values["elbo"].dtype


@functools.lru_cache(maxsize=32)
def make(model: Model, *, num_examples: int, num_samples: int, chunk_size: int) -> ExampleMap:
    """`evaluate` compiled for sets of `num_examples`; runs of one model share it.

    At most `chunk_size` decoder evaluations, and K log weights per example of a batch, are in
    memory at once.
    """
    rows = min(chunk_size, num_samples)
    return mapping.make(
        functools.partial(evaluate, model=model, num_samples=num_samples, chunk_size=chunk_size),
        num_examples=num_examples,
        budget=Budget(rows=rows, max_rows=chunk_size, work=num_samples),
        prepare=model.prepare,
    )


def unit_activity(per_example: PerExample) -> list[Float[np.ndarray, "U"]]:
    """Per layer Var_x(E_q[u]) of each unit over N examples, in float64, its noise removed.

    Burda et al. (2016), section 2. E_q[u] are posterior means, not samples; the variance of
    their estimate, left in, would count dead units of deeper layers as active.
    """
    return [
        np.var(np.asarray(means, np.float64), axis=0)
        - np.mean(np.asarray(noise, np.float64), axis=0)
        for means, noise in zip(per_example.unit_means, per_example.unit_noise, strict=True)
    ]


def arrays(per_example: PerExample) -> dict[str, np.ndarray]:
    """What is kept per example, [N] each: "value/NAME", "mc_variance/NAME", "ess", "pareto_k";
    and "unit_activity/layer_L", [U] each.
    """
    found = per_example.weights
    named = {f"value/{name}": array for name, array in (found.values | per_example.exact).items()}
    named |= {f"mc_variance/{name}": array for name, array in found.variances.items()}
    named |= {f"mc_variance/{k}": np.zeros_like(v) for k, v in per_example.exact.items()}
    named |= {"ess": found.ess, "pareto_k": found.pareto_k}
    for number, layer in enumerate(unit_activity(per_example), 1):
        named[f"unit_activity/layer_{number}"] = layer
    return {name: np.asarray(array) for name, array in named.items()}


def weights_of(stored: dict[str, np.ndarray], count: int) -> Weights:
    """The weights' part of stored `arrays`, of the first `count` examples."""

    def part(prefix: str) -> dict[str, np.ndarray]:
        names = [name for name in stored if name.startswith(prefix)]
        return {name.removeprefix(prefix): stored[name][:count] for name in names}

    return Weights(
        part("value/"), part("mc_variance/"), stored["ess"][:count], stored["pareto_k"][:count]
    )
