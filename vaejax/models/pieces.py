"""What a config names, ready to be put together by a hierarchy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vaejax.models.likelihoods import Likelihood
from vaejax.models.networks import Network, Shape, Site
from vaejax.models.posteriors import Family
from vaejax.models.priors import Prior


class Pieces(NamedTuple):
    """What a hierarchy is made of.

    Attributes:
      shape: of one example x.
      latent_dims: of each layer, from the one next to the data on.
      encoders: for each layer what makes its networks of q.
      decoders: for each layer what makes its networks of p.
      family: size -> the family of q in a layer.
      prior: size -> p(z) of the topmost layer.
      likelihood: p(x|z).
      output_bias: where the last decoder's outputs start, of their shape; None: at zero.
    """

    shape: Shape
    latent_dims: tuple[int, ...]
    encoders: tuple[Callable[[Site], Network], ...]
    decoders: tuple[Callable[[Site], Network], ...]
    family: Callable[[int], Family]
    prior: Callable[[int], Prior]
    likelihood: Likelihood
    output_bias: Float[np.ndarray, "..."] | None
