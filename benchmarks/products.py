"""The matrix products of a training step, and nothing else: what the step cannot be faster than."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.types import Params

_FORWARD, _WEIGHTS, _INPUTS = "ri,io->ro", "ri,ro->io", "ro,io->ri"
_FLOPS_PER_CALL = 4e9
BATCH_SIZE, _NUM_PIXELS = 100, 784


class Product(NamedTuple):
    """One matrix product of a dense layer: r rows, i inputs, o outputs.

    Attributes:
      equation: which product it is: forward, or backward to the weights or to the inputs.
      rows, inputs, outputs: its sizes.
    """

    equation: str
    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inputs * self.outputs


def of_step(params: Params, num_samples: int) -> list[Product]:
    """The products of one gradient step of the MLP: each layer forward, and backward twice.

    Layers of the encoder see B = 100 rows, those of the decoder `num_samples` times as many. The
    gradient with respect to the data is not computed.
    """
    found = []
    for part, rows in (("inference", BATCH_SIZE), ("generative", BATCH_SIZE * num_samples)):
        for leaf in jax.tree.leaves(params[part]):
            if leaf.ndim != 2:
                continue
            sees_data = part == "inference" and leaf.shape[0] == _NUM_PIXELS
            equations = (_FORWARD, _WEIGHTS) if sees_data else (_FORWARD, _WEIGHTS, _INPUTS)
            found += [Product(equation, rows, *leaf.shape) for equation in equations]
    return found


def _operand(name: str, product: Product) -> jax.Array:
    sizes = {"r": product.rows, "i": product.inputs, "o": product.outputs}
    shape = [sizes[letter] for letter in name]
    return jax.random.normal(jax.random.key(len(name)), shape)


def _repeated(product: Product, left: jax.Array, right: jax.Array, count: int) -> jax.Array:
    """The product `count` times: each one puts a number into an operand of the next, so that
    none can be left out, nor done once for all.
    """

    def again(_, operand):
        result = jax.lax.optimization_barrier(jnp.einsum(product.equation, left, operand))
        return operand.at[0, 0].set(result[0, 0] * 1e-3)

    return jax.lax.fori_loop(0, count, again, right)


def repeated(product: Product) -> tuple[Callable[[], jax.Array], int]:
    """A compiled program of the product alone, and how often it does it in a call."""
    count = math.ceil(_FLOPS_PER_CALL / product.flops)
    names = product.equation.partition("->")[0].split(",")
    operands = [_operand(name, product) for name in names]
    run = jax.jit(functools.partial(_repeated, product, count=count))
    return lambda: run(*operands), count


def timer(
    params: Params,
    num_samples: int,
    num_examples: int,
    seconds: Callable[[Callable[[], Any]], float],
) -> Callable[[], float]:
    """A function that measures the seconds of all products of the steps for `num_examples`.

    Each product is timed apart by `seconds`, and they are added.
    """
    programs = [repeated(product) for product in of_step(params, num_samples)]
    for run, _ in programs:
        seconds(run)  # compiles
    num_steps = num_examples // BATCH_SIZE
    return lambda: num_steps * sum(seconds(run) / count for run, count in programs)
