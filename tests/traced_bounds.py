"""Every bound in one program: which one it is, is a value, so that a test of all compiles once."""

import jax

from vaejax.objectives import bounds

NAMES = tuple(bounds.BOUNDS)


def numbered(number):
    """The bound `NAMES[number]`, with its defaults; the number may be traced."""
    functions = [bounds.FUNCTIONS[name] for name in NAMES]
    return lambda log_weights: jax.lax.switch(number, functions, log_weights)
