"""One set of K log importance weights of one example, and all that is read off it."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vaejax import numerics
from vaejax.evidence import diagnostics, pareto
from vaejax.objectives import bounds, importance
from vaejax.types import LogTerms

BOUND_SAMPLES = (1, 5, 50, 500, 5000)
ESS_NEEDED = 100.0  # below, the delta-method error of log p(x) is known to be too small


class Weights(NamedTuple):
    """What K samples say of one example; [N] each once stacked, nats.

    Attributes:
      values: estimate by name: "elbo", "reconstruction", "kl", "iwae_5", .., "jackknife".
      variances: variance of each estimate's Monte-Carlo error, nats squared (NaN: unknown).
      ess: effective sample size of all K weights.
      pareto_k: k-hat of their tail (NaN: unknown).
    """

    values: dict[str, Float[Array, "*N"]]
    variances: dict[str, Float[Array, "*N"]]
    ess: Float[Array, "*N"]
    pareto_k: Float[Array, "*N"]


def bound_sizes(num_samples: int) -> tuple[int, ...]:
    """The k of the reported L_k: 1, 5, 50, 500, 5000 up to K, and K itself."""
    return tuple(sorted({k for k in BOUND_SAMPLES if k <= num_samples} | {num_samples}))


def jackknife(log_weights: Float[Array, "K"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """JVI-1 (`bounds.jackknife`) and its jackknife variance (K-1)/K sum_i (l_i - mean l)^2,
    l_i = log of the mean weight without sample i (Nowozin 2018, eq. 12); NaN for K = 1.
    """
    num_samples = log_weights.shape[0]
    if num_samples == 1:
        return log_weights[0], jnp.full((), math.nan, log_weights.dtype)
    variance = (num_samples - 1) * jnp.var(numerics.log_left_out(log_weights))
    return bounds.jackknife(log_weights), variance


def summarize(terms: LogTerms) -> Weights:
    """Every estimate of one example from its K samples, [K] each in `terms`.

    elbo = mean log w = reconstruction - kl, exactly, since all three are means over the
    same samples; L_k averages logmeanexp over disjoint groups of k. All in the dtype of
    `terms`.
    """
    log_weights = importance.log_weights(terms)
    averaged = {
        "elbo": log_weights,
        "reconstruction": terms.log_likelihood,
        "kl": terms.log_posterior - terms.log_prior,
    }
    both = {
        name: (jnp.mean(part), diagnostics.mean_variance(part)) for name, part in averaged.items()
    }
    for k in bound_sizes(log_weights.shape[0]):
        both[f"iwae_{k}"] = diagnostics.grouped_iwae(log_weights, group_size=k)
    both["jackknife"] = jackknife(log_weights)
    return Weights(
        {name: value for name, (value, _) in both.items()},
        {name: variance for name, (_, variance) in both.items()},
        diagnostics.effective_sample_size(log_weights),
        pareto.k_hat(log_weights),
    )


def k_hat_is_bad(k_hat: Float[np.ndarray, "*N"], num_samples: int) -> Bool[np.ndarray, "*N"]:
    """Whether k-hat is above the threshold for K samples; NaN, an unknown one, counts as bad."""
    return ~(np.asarray(k_hat) <= pareto.threshold(num_samples))


def trusted(weights: Weights, *, num_samples: int) -> Bool[np.ndarray, "*N"]:
    """Whether the stated error of L_K may be believed: enough ESS, and no heavy tail."""
    bad = k_hat_is_bad(weights.pareto_k, num_samples)
    return (np.asarray(weights.ess) >= ESS_NEEDED) & ~bad
