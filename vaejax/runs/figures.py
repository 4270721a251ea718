"""The figures of an evaluation, written beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vaejax import keys
from vaejax.evaluation import figures as plots
from vaejax.evaluation import mapping
from vaejax.evaluation.results import Result
from vaejax.runs.subject import Subject
from vaejax.training import runs
from vaejax.types import Model, Params

_NUM_RECONSTRUCTIONS = 12


@functools.partial(jax.jit, static_argnames="model")
def _reconstruct(
    params: Params, sample_keys: Array, x: Float[Array, "N ..."], *, model: Model
) -> Float[Array, "N ..."]:
    def reconstruct(key, x):
        mean = model.likelihood(params, model.posterior(params, x).sample(key)).mean
        return model.intensities(mean)

    return jax.vmap(reconstruct)(sample_keys, x)


def write(subject: Subject, result: Result) -> None:
    """Bounds, samples and reconstructions, as figures/*.png. Raises UserError."""
    params, model = subject.params, subject.model
    x = mapping.as_float(subject.held_out.x[:_NUM_RECONSTRUCTIONS])
    sample_keys = jax.random.split(keys.domain(0, "figures/reconstructions"), len(x))
    means = np.asarray(_reconstruct(params, sample_keys, jnp.asarray(x), model=model))
    draws = runs.prior_means(model, params)
    shape = x.shape[1:]
    drawn = {
        "bounds": plots.bounds_against_samples(result),
        "samples": plots.samples(draws, shape),
        "reconstructions": plots.reconstructions(np.asarray(model.intensities(x)), means, shape),
    }
    for name, figure in drawn.items():
        runs.write_figure(subject.workdir, name, figure)
