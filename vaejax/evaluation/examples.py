"""Bounds and their errors on a whole data set, from one set of log weights, in fixed memory.

Sample j of example i always uses the key fold_in(fold_in(key, i), j), so no result depends
on batch size, memory chunk or device count beyond float32 rounding.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax.evidence import diagnostics
from vaejax.objectives import bounds, importance
from vaejax.types import LogTerms, Model, Params

BOUND_SAMPLES = (1, 5, 50, 500, 5000)
ACTIVE_THRESHOLD = 0.01
_ACTIVITY_SAMPLES = 64  # samples of the layers below, for the means of deeper layers
_SAMPLES_PER_CALL = 2**20


class PerExample(NamedTuple):
    """What one example contributes; [N] each once stacked, nats.

    Attributes:
      values: estimate by name ("elbo", "reconstruction", "kl", "iwae_5", ...).
      variances: variance of each estimate's Monte-Carlo error (NaN where unknown).
      ess: effective sample size of all K weights.
      unit_means: E_q[u] per stochastic layer, a list of [U].
      unit_noise: Monte-Carlo variance of those means.
    """

    values: dict[str, Float[Array, "*N"]]
    variances: dict[str, Float[Array, "*N"]]
    ess: Float[Array, "*N"]
    unit_means: list[Float[Array, "*N U"]]
    unit_noise: list[Float[Array, "*N U"]]


def bound_sizes(num_samples: int) -> tuple[int, ...]:
    """The k of the reported L_k: 1, 5, 50, 500, 5000 up to K, and K itself."""
    return tuple(sorted({k for k in BOUND_SAMPLES if k <= num_samples} | {num_samples}))


def summarize_weights(terms: LogTerms) -> tuple[dict, dict, Float[Array, ""]]:
    """Every bound of one example from its K samples: values, error variances, ESS.

    elbo = mean log w = reconstruction - kl, exactly, since all three are means over the
    same samples; L_k averages logmeanexp over disjoint groups of k.
    """
    log_weights = importance.log_weights(terms)
    parts = {
        "elbo": log_weights,
        "reconstruction": terms.log_likelihood,
        "kl": terms.log_posterior - terms.log_prior,
    }
    values = {name: jnp.mean(part) for name, part in parts.items()}
    variances = {name: diagnostics.mean_variance(part) for name, part in parts.items()}
    for k in bound_sizes(log_weights.shape[0]):
        value, variance = diagnostics.grouped_iwae(log_weights, group_size=k)
        values[f"iwae_{k}"], variances[f"iwae_{k}"] = value, variance
    return values, variances, diagnostics.effective_sample_size(log_weights)


def evaluate_example(
    params: Params,
    key: PRNGKeyArray,
    index: Int[Array, ""],
    x: Float[Array, "D"],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
) -> PerExample:
    """All estimates for example number `index`; `key` is that of the evaluation."""
    example_key = jax.random.fold_in(key, index)
    terms = importance.chunked_log_terms(
        params, example_key, x, model=model, num_samples=num_samples, chunk_size=chunk_size
    )
    values, variances, ess = summarize_weights(terms)
    exact = {"kl_closed_form": model.kl_groups and jnp.sum(model.kl_groups(params, x))}
    exact["log_marginal"] = model.log_marginal and model.log_marginal(params, x)
    for name, value in exact.items():
        if value is not None:
            values[name], variances[name] = value, jnp.zeros_like(value)
    keys = jax.random.split(example_key, _ACTIVITY_SAMPLES)
    means = jax.vmap(lambda key: model.posterior_mean(params, key, x))(keys)
    moments = [diagnostics.mean_moments(layer) for layer in jax.tree.leaves(means)]
    return PerExample(values, variances, ess, [m for m, _ in moments], [n for _, n in moments])


def validation_bounds(
    params: Params,
    key: PRNGKeyArray,
    index: Int[Array, ""],
    x: Float[Array, "D"],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
) -> dict[str, Float[Array, ""]]:
    """ELBO and L_K of example number `index`: what a run watches while it trains."""
    terms = importance.chunked_log_terms(
        params,
        jax.random.fold_in(key, index),
        x,
        model=model,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    log_weights = importance.log_weights(terms)
    return {"elbo": bounds.elbo(log_weights), "iwae": bounds.iwae(log_weights)}


class Evaluator(NamedTuple):
    """A compiled per-example function over many examples.

    Attributes:
      run: `(params, key, indices [E], x [E, D]) -> results [E]`.
      examples_per_call: E.
    """

    run: Callable[..., Any]
    examples_per_call: int


def make_evaluator(
    example_function: Callable[..., Any],
    *,
    model: Model,
    num_examples: int,
    num_samples: int,
    chunk_size: int,
) -> Evaluator:
    """Compiles `evaluate_example` or `validation_bounds` for a split of `num_examples`.

    Examples are spread over all devices; on each, `lax.map` keeps at most `chunk_size`
    decoder evaluations (and K log weights per example of the batch) in memory.
    """
    mesh = Mesh(np.asarray(jax.devices()), ("examples",))
    batch = max(1, chunk_size // num_samples)
    needed = -(-num_examples // (mesh.size * batch))
    per_device = batch * min(needed, max(1, _SAMPLES_PER_CALL // (batch * num_samples)))
    options = {"model": model, "num_samples": num_samples, "chunk_size": chunk_size}

    def shard(params, key_data, indices, x):
        key = jax.random.wrap_key_data(key_data)
        return jax.lax.map(
            lambda row: example_function(params, key, *row, **options),
            (indices, x),
            batch_size=batch if batch > 1 else None,
        )

    split, whole = PartitionSpec("examples"), PartitionSpec()
    mapped = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(whole, whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    compiled = jax.jit(mapped)

    def run(params, key, indices, x):
        return compiled(params, jax.random.key_data(key), indices, x)

    return Evaluator(run, per_device * mesh.size)


def evaluate_batches(
    evaluator: Evaluator, params: Params, key: PRNGKeyArray, x: np.ndarray
) -> Iterator[Any]:
    """Yields host results for consecutive rows of x [N, D]; padding never comes out."""
    size = evaluator.examples_per_call
    for start in range(0, len(x), size):
        rows = x[start : start + size].astype(np.float32)
        indices = np.arange(start, start + size, dtype=np.int32)
        padded = np.pad(rows, ((0, size - len(rows)), (0, 0)))
        leaves, structure = jax.tree.flatten(evaluator.run(params, key, indices, padded))
        yield structure.unflatten([np.asarray(leaf)[: len(rows)] for leaf in leaves])


def concatenate(parts: list[Any]) -> Any:
    """Stacks what `evaluate_batches` yielded."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _reading_order(name: str) -> tuple[int, int]:
    leading = ("elbo", "reconstruction", "kl", "kl_closed_form")
    if name.startswith("iwae_"):
        return len(leading), int(name.removeprefix("iwae_"))
    return leading.index(name) if name in leading else len(leading) + 1, 0


def estimates(per_example: PerExample) -> dict[str, dict[str, float | None]]:
    """Means over examples with their two errors, in float64.

    mc_se = sqrt(sum_i var_i) / N is the error left by finite K (None where one sample
    cannot tell); data_se = sd_i / sqrt(N) that of the finite set of examples.
    """
    result = {}
    for name in sorted(per_example.values, key=_reading_order):
        values = np.asarray(per_example.values[name], np.float64)
        variances = np.asarray(per_example.variances[name], np.float64)
        mc_se = math.sqrt(variances.sum()) / len(values)
        data_se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        result[name] = {
            "value": float(values.mean()),
            "mc_se": None if math.isnan(mc_se) else mc_se,
            "data_se": None if math.isnan(data_se) else float(data_se),
        }
    return result


def summarize_diagnostics(per_example: PerExample) -> dict[str, float | list[int]]:
    """Median ESS, share of examples with ESS below 100, active units per layer."""
    activity = [
        np.asarray(diagnostics.unit_activity(means.astype(np.float64), noise))
        for means, noise in zip(per_example.unit_means, per_example.unit_noise, strict=True)
    ]
    return {
        "ess_median": float(np.median(per_example.ess)),
        "ess_below_100": float(np.mean(np.asarray(per_example.ess) < 100)),
        "active_units": [int((layer > ACTIVE_THRESHOLD).sum()) for layer in activity],
    }
