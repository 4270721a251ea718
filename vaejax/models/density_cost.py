"""Posteriors whose density at a given z is too slow to be asked for."""

from vaejax.types import Model

MOST_DENSITY_STEPS = 512
"""Network passes, one after another, beyond which log q(z|x) at a given z is refused."""


def too_slow(model: Model) -> str | None:
    """Why log q(z|x) cannot be asked at given z, a clause; None: it can."""
    if model.density_steps <= MOST_DENSITY_STEPS:
        return None
    return (
        f"needs log q(z|x) at given z, which this posterior finds one latent after another, "
        f"{model.density_steps:,} network passes (at most {MOST_DENSITY_STEPS})"
    )
