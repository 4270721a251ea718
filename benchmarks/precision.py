"""What the precision of float32 matrix products costs an evaluation, in nats."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vaejax import keys
from vaejax.evaluation import mapping, per_example
from vaejax.runs import subject as subject_lib

PRECISIONS = ("default", "high", "highest")
Values = dict[str, np.ndarray]


def measure(
    workdir: pathlib.Path, *, num_samples: int, num_examples: int, console: Console
) -> dict[str, Values]:
    """Of each precision the values of the first test examples, [N] each, on common samples."""
    subject = subject_lib.load(workdir, "test", console=console)
    x = jnp.asarray(mapping.as_float(subject.held_out.x[:num_examples]))
    own = jax.random.split(keys.domain(0, "benchmark/precision"), len(x))
    found = {}
    for precision in PRECISIONS:
        # Compiled anew each time: the precision is part of the program.
        program = jax.jit(
            jax.vmap(
                lambda key, x: per_example.evaluate(
                    subject.params,
                    key,
                    x,
                    model=subject.model,
                    num_samples=num_samples,
                    chunk_size=num_samples,
                )
            )
        )
        with jax.default_matmul_precision(precision):
            result = jax.device_get(program(own, x))
        values = result.weights.values | result.exact
        found[precision] = {name: np.asarray(v, np.float64) for name, v in values.items()}
    return found


def differences(found: Mapping[str, Values], reference: Values) -> dict[str, dict[str, dict]]:
    """Of each precision and value the mean over examples, and how far it is from the reference."""
    rows = {}
    for precision, values in found.items():
        rows[precision] = {}
        for name in sorted(set(values) & set(reference)):
            off = values[name] - reference[name]
            rows[precision][name] = {
                "mean": float(values[name].mean()),
                "mean_difference": float(off.mean()),
                "largest_difference": float(np.abs(off).max()),
            }
    return rows
