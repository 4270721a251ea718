"""Where the ELBO loses its nats, as a result holds it: means over examples, with errors."""

import dataclasses

import numpy as np
from jaxtyping import Float

from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence import gaps as gap_analysis


@dataclasses.dataclass(frozen=True)
class Parts:
    """The three gaps for the best q of one family, nats."""

    inference: ExampleMean
    approximation: ExampleMean
    amortization: ExampleMean


@dataclasses.dataclass(frozen=True)
class Gaps(Parts):
    """Where the ELBO loses its nats; the parts themselves are those of the diagonal family.

    Attributes:
      family: what q* is.
      full_covariance: the parts for the best normal of full covariance.
      encoder_family: those for the best q of the encoder's own family; None in older results.
      elbo: of the encoder's q.
      log_marginal: the estimate of log p(x) that was used.
      log_marginal_from: its name.
      num_examples: N.
    """

    family: str
    full_covariance: Parts
    elbo: ExampleMean
    log_marginal: ExampleMean
    log_marginal_from: str
    num_examples: int
    encoder_family: Parts | None = None

    def by_family(self) -> dict[str, Parts]:
        """The parts for every family of q*, the encoder's own first."""
        own = {} if self.encoder_family is None else {"the encoder's": self.encoder_family}
        return own | {"diagonal normal": self, "full normal": self.full_covariance}


def _mean(part: Float[np.ndarray, "N 2"]) -> ExampleMean:
    part = np.asarray(part, np.float64)
    return means.over_examples(part[:, 0], part[:, 1])


def _parts(log_marginal: np.ndarray, encoder: np.ndarray, best: np.ndarray) -> Parts:
    found = gap_analysis.decompose(log_marginal, encoder, best)
    return Parts(**{name: _mean(part) for name, part in found.items()})


def summarize(
    log_marginal: Float[np.ndarray, "N 2"],
    elbos: gap_analysis.Elbos,
    *,
    source: str,
    num_layers: int,
) -> Gaps:
    """Inference, approximation and amortization gap (`evidence.gaps.decompose`) of every family.

    Means over examples in nats, with Monte-Carlo errors and those of the choice of examples.

    Args:
      log_marginal: value and variance of the estimate of log p(x) called `source`.
      elbos: of the encoder's q and of the best q.
      source: its name.
      num_layers: stochastic layers of the model.
    """
    families = {
        family: _parts(log_marginal, elbos.encoder, best) for family, best in elbos.best.items()
    }
    normal = "joint normal over the latents of all layers" if num_layers > 1 else "normal"
    diagonal = families["diagonal"]
    return Gaps(
        diagonal.inference,
        diagonal.approximation,
        diagonal.amortization,
        family=f"{normal}, diagonal covariance",
        full_covariance=families["full_covariance"],
        encoder_family=families[gap_analysis.ENCODER_FAMILY],
        elbo=_mean(elbos.encoder),
        log_marginal=_mean(log_marginal),
        log_marginal_from=source,
        num_examples=len(log_marginal),
    )
