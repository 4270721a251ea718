"""The contracts everything else is written against. Imports nothing from vaejax."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

Params = dict[str, PyTree]
"""`{"generative": theta, "inference": phi}`: theta is all that p(x, z) uses, phi the rest.

q(z|x) may use theta too, as in a top-down hierarchy, whose path it shares."""

Latent: TypeAlias = PyTree
"""One latent sample: an array, or a tuple with one array per stochastic layer."""


@runtime_checkable
class Distribution(Protocol):
    """A distribution of one value; every method is pure. `numpyro.distributions` are some.

    Optional, where they exist: `mean`, the expectation, and `sample_and_log_prob(key)`, for
    distributions that are cheap in the direction of sampling alone.
    """

    def sample(self, key: PRNGKeyArray) -> Any:
        """One draw, reparameterised where the value is continuous."""

    def log_prob(self, value: Any) -> Float[Array, ""]:
        """The log density (or mass) of one value, in nats."""


class DataSpec(NamedTuple):
    """What a model must know of its data before it is built.

    Attributes:
      shape: shape of one example x.
      mean: mean training example, of that shape and in units of x, or None when only the
        structure of the parameters matters.
      levels: L, for likelihoods of whole numbers 0..L-1; without meaning for the others.
    """

    shape: tuple[int, ...]
    mean: Float[Array, "..."] | None
    levels: int = 256

    @property
    def size(self) -> int:
        """D, the number of values in one example."""
        return math.prod(self.shape)


def unchanged(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x itself."""
    return x


class Support(NamedTuple):
    """Which vectors the latents of a layer may be; see `models.supports`.

    Attributes:
      values: "real": all; "binary": 0 or 1 in each value; "one_of": groups of values, in each of
        which one is 1 and the others are 0.
      num_classes: size of those groups; 0 without them.
    """

    values: Literal["real", "binary", "one_of"] = "real"
    num_classes: int = 0

    @property
    def is_discrete(self) -> bool:
        """Whether there are finitely many: then z has no derivatives, and no path leads to it."""
        return self.values != "real"


class Model(NamedTuple):
    """A latent-variable model p(x, z) with its encoder q(z|x), for one example.

    Attributes:
      init: `(key) -> params`.
      prior: `(params) -> Distribution` of z, p(z).
      posterior: `(params, x) -> Distribution` of z, q(z|x), reparameterised where z is real. It may
        use theta too; gradient estimators tell its view of `params` from that of the other two.
      likelihood: `(params, z) -> Distribution` of x, p(x|z); it has a `mean`.
      kl_groups: `(params, x) -> [G]`, KL(q(z|x) || p(z)) in closed form, one number for each
        group of latents that both keep independent (a sum of them is the KL), or None.
      log_marginal: `(params, x) -> []`, the exact log p(x), or None.
      intensities: `(x) -> x in [0, 1]`, as networks and pictures have it; whole numbers 0..L-1
        become x / (L - 1).
      prepare: `(params) -> params`, with what needs no x computed once; every function of the
        model takes both. For loops over examples or samples, where p(z) is made of encoders.
      density_steps: how many network passes, one after another, log q(z|x) takes at a z that
        q did not draw itself.
      support: which latents there are, in every layer.
    """

    init: Callable[[PRNGKeyArray], Params]
    prior: Callable[[Params], Distribution]
    posterior: Callable[[Params, Float[Array, "..."]], Distribution]
    likelihood: Callable[[Params, Latent], Distribution]
    kl_groups: Callable[[Params, Float[Array, "..."]], Float[Array, "G"]] | None = None
    log_marginal: Callable[[Params, Float[Array, "..."]], Float[Array, ""]] | None = None
    intensities: Callable[[Float[Array, "..."]], Float[Array, "..."]] = unchanged
    prepare: Callable[[Params], Params] = lambda params: params
    density_steps: int = 1
    support: Support = Support()


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
      pilot: `(params, key, x [P, ...]) -> tuning`, everything that is tuned, from a key and
        runs of its own; () where nothing is.
      estimate: `(params, key, x, tuning) -> {name: Evidence}`, for one example.
      rows: latent samples of one example that are held in memory at once.
      work: decoder evaluations that one example takes.
      pilot_examples: P, how many examples the pilot runs on.
      num_examples: how many examples it makes for itself; None: it takes the caller's.
    """

    pilot: Callable[[Params, PRNGKeyArray, Float[Array, "P ..."]], PyTree]
    estimate: Callable[[Params, PRNGKeyArray, Float[Array, "..."], PyTree], dict[str, Evidence]]
    rows: int
    work: int
    pilot_examples: int = 1
    num_examples: int | None = None
