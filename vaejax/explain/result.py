"""What an experiment of `vaejax.explain` gives back."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


class Picture(NamedTuple):
    """One figure of the page.

    Attributes:
      caption: one sentence that says what is seen, with units.
      image: a matplotlib figure (written as PNG), or the bytes of a finished GIF.
    """

    caption: str
    image: Figure | bytes


class Terms(NamedTuple):
    """log p(x) = ELBO + KL in its three parts, computed apart; arrays of one shape, nats, float64.

    Attributes:
      log_marginal: log p(x).
      elbo: the ELBO.
      kl: KL(q(z|x) || p(z|x)).
    """

    log_marginal: Float[np.ndarray, "*N"]
    elbo: Float[np.ndarray, "*N"]
    kl: Float[np.ndarray, "*N"]

    def residual(self) -> Float[np.ndarray, "*N"]:
        """|log p(x) - ELBO - KL|: nothing but rounding and quadrature."""
        return np.abs(self.log_marginal - self.elbo - self.kl)


class Experiment(Protocol):
    """A module of `vaejax.explain`: one question, answered by numbers from a run.

    Attributes:
      Config: frozen dataclass of its budget, fields made by `schema.field`.
      QUESTION: the question it answers, as a newcomer would ask it.
      compute: `(config, *, seed) -> findings`, a NamedTuple of arrays; draws nothing.
      numbers: `(findings) -> dict` of plain values, as `explain.json` holds it: named in
        words, units and all ("elbo_nats"); lists are kept for the file, not printed.
      headline: `(findings) -> str`, the number to remember, in one line of at most 90
        characters ("log p(x) - (ELBO + KL) is 3e-14 nat at most").
      sentences: `(findings) -> list` of three sentences whose numbers are of this run.
      pictures: `(findings) -> {name: Picture}`.
    """

    Config: type
    QUESTION: str

    def compute(self, config: Any, *, seed: int) -> Any: ...

    def numbers(self, findings: Any) -> dict[str, Any]: ...

    def headline(self, findings: Any) -> str: ...

    def sentences(self, findings: Any) -> list[str]: ...

    def pictures(self, findings: Any) -> dict[str, Picture]: ...
