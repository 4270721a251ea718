"""The contracts everything else is written against. Imports nothing from vaejax."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

Params = dict[str, PyTree]
"""`{"generative": theta, "inference": phi}`: theta parameterises p(x, z), phi q(z|x)."""

Latent = PyTree
"""One latent sample: an array, or a tuple with one array per stochastic layer."""


class DataSpec(NamedTuple):
    """What a model must know of its data before it is built.

    Attributes:
      shape: shape of one image; `x` is the image flattened to [D].
      mean: mean training image in [0, 1], flattened, or None when only the
        structure of the parameters matters.
    """

    shape: tuple[int, ...]
    mean: Float[Array, "D"] | None

    @property
    def size(self) -> int:
        """D, the number of values in one example."""
        size = 1
        for length in self.shape:
            size *= length
        return size


class Likelihood(NamedTuple):
    """p(x|z) as a function of the decoder's output, for one example.

    Attributes:
      init: `() -> params`, parameters beside the decoder's output (a scale).
      output_bias: `(mean [D]) -> [D]`, the decoder bias whose mean is `mean`.
      log_prob: `(params, output [D], x [D]) -> []`, in nats, summed over D.
      mean: `(params, output [D]) -> [D]`.
      sample: `(params, key, output [D]) -> [D]`.
      binary: whether x must be 0 or 1.
    """

    init: Callable[[], PyTree]
    output_bias: Callable[[Float[Array, "D"]], Float[Array, "D"]]
    log_prob: Callable[[PyTree, Float[Array, "D"], Float[Array, "D"]], Float[Array, ""]]
    mean: Callable[[PyTree, Float[Array, "D"]], Float[Array, "D"]]
    sample: Callable[[PyTree, PRNGKeyArray, Float[Array, "D"]], Float[Array, "D"]]
    binary: bool


class Model(NamedTuple):
    """A latent-variable model p(x, z) with its encoder q(z|x): one example, one sample.

    Attributes:
      init: `(key) -> params`.
      sample_prior: `(params, key) -> z`, z ~ p(z).
      log_prior: `(params, z) -> []`, log p(z), nats.
      sample_posterior: `(params, key, x) -> z`, z ~ q(z|x), reparameterised.
      log_posterior: `(params, x, z) -> []`, log q(z|x), nats.
      log_likelihood: `(params, x, z) -> []`, log p(x|z), nats.
      likelihood_mean: `(params, z) -> [D]`, E[x|z].
      sample_likelihood: `(params, key, z) -> [D]`, x ~ p(x|z).
      posterior_mean: `(params, key, x) -> z-like`, the mean of each stochastic
        layer given a sample of the layers before it (the first layer's is exact).
      kl_groups: `(params, x) -> [G]`, KL(q(z|x) || p(z)) in closed form, one number for each
        group of latents that both keep independent (a sum of them is the KL), or None.
      log_marginal: `(params, x) -> []`, the exact log p(x), or None.
    """

    init: Callable[[PRNGKeyArray], Params]
    sample_prior: Callable[[Params, PRNGKeyArray], Latent]
    log_prior: Callable[[Params, Latent], Float[Array, ""]]
    sample_posterior: Callable[[Params, PRNGKeyArray, Float[Array, "D"]], Latent]
    log_posterior: Callable[[Params, Float[Array, "D"], Latent], Float[Array, ""]]
    log_likelihood: Callable[[Params, Float[Array, "D"], Latent], Float[Array, ""]]
    likelihood_mean: Callable[[Params, Latent], Float[Array, "D"]]
    sample_likelihood: Callable[[Params, PRNGKeyArray, Latent], Float[Array, "D"]]
    posterior_mean: Callable[[Params, PRNGKeyArray, Float[Array, "D"]], Latent]
    kl_groups: Callable[[Params, Float[Array, "D"]], Float[Array, "G"]] | None = None
    log_marginal: Callable[[Params, Float[Array, "D"]], Float[Array, ""]] | None = None


class LogTerms(NamedTuple):
    """The three log densities of one (x, z), or of K samples; nats.

    Attributes:
      log_likelihood: log p(x|z).
      log_prior: log p(z).
      log_posterior: log q(z|x).
    """

    log_likelihood: Float[Array, "*K"]
    log_prior: Float[Array, "*K"]
    log_posterior: Float[Array, "*K"]


Numbers = dict[str, Any]
"""Dotted config path -> number that may be traced (see `config.traced_numbers`)."""


class Evidence(NamedTuple):
    """What an estimator says of log p(x) for one example; [N] each once stacked.

    Attributes:
      value: an estimate of log p(x), or of a bound on it, in nats.
      variance: variance of its Monte-Carlo error, nats squared (0: exact).
      trusted: whether value and variance may be believed; False is a warning, and no
        example is left out for it.
      diagnostics: a NamedTuple of the estimator's own.
    """

    value: Float[Array, "*N"]
    variance: Float[Array, "*N"]
    trusted: Bool[Array, "*N"]
    diagnostics: Any


class Estimator(NamedTuple):
    """A log p(x) estimator with its budget, for one model.

    Attributes:
      pilot: `(params, key, x [P, D]) -> tuning`, everything that is tuned, from a key and
        runs of its own; () where nothing is.
      estimate: `(params, key, x [D], tuning) -> {name: Evidence}`, for one example.
      rows: latent samples of one example that are held in memory at once.
      num_examples: how many examples it makes for itself; None: it takes the caller's.
    """

    pilot: Callable[[Params, PRNGKeyArray, Float[Array, "P D"]], PyTree]
    estimate: Callable[[Params, PRNGKeyArray, Float[Array, "D"], PyTree], dict[str, Evidence]]
    rows: int
    num_examples: int | None = None
