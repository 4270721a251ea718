"""vaejax as a library: bounds of one example, and runs as values, without files or flags.

What stands here is reached from the package: `vaejax.elbo`, `vaejax.load`, ..
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PRNGKeyArray
from rich.console import Console

from vaejax import config as config_lib
from vaejax import consistency, schema
from vaejax.config import Config
from vaejax.data import sources, splits
from vaejax.data.splits import HeldOut
from vaejax.errors import UserError, unknown
from vaejax.evaluation import mapping, per_example, summary
from vaejax.evaluation.results import Diagnostics, Estimate
from vaejax.models import latent_variable
from vaejax.objectives import bounds, importance
from vaejax.storage import json_files
from vaejax.storage import workdir as workdir_lib
from vaejax.training import in_memory, runs
from vaejax.training import step as training
from vaejax.types import DataSpec, Model, Params


class Data(NamedTuple):
    """The images of a run as they are evaluated.

    Attributes:
      train, validation, test: `x` [N, H, W, C] each, with its hash and what its numbers are;
        None: the config names no validation images.
    """

    train: HeldOut
    validation: HeldOut | None
    test: HeldOut


class Run(NamedTuple):
    """A trained run.

    Attributes:
      config: what it was made of.
      model: prior, posterior and likelihood as functions of the parameters.
      params: what it is judged by: best by validation, else averaged, else last.
      data: its images.
      history: rows of metrics, as metrics.jsonl holds them.
    """

    config: Config
    model: Model
    params: Params
    data: Data
    history: list[dict[str, Any]]


class Evaluated(NamedTuple):
    """What an evaluation finds.

    Attributes:
      estimates: mean over examples with errors, by name: "elbo", "iwae_5000", ..; nats.
      diagnostics: how far to trust them.
      per_example: the arrays of evaluation.npz: "value/elbo" [N], "ess" [N], ..
    """

    estimates: dict[str, Estimate]
    diagnostics: Diagnostics
    per_example: dict[str, np.ndarray]


def elbo(
    params: Params,
    key: PRNGKeyArray,
    x: Num[Array, "..."],
    *,
    model: Model,
    num_samples: int = 1,
) -> Array:
    """The ELBO of one example, (1/K) sum_k log w_k with z_k ~ q(z|x): a scalar, in nats.

    log w = log p(x, z) - log q(z|x); Kingma and Welling (2014), eq. 2. An unbiased estimate of a
    lower bound on log p(x). Pure: `jit`, `grad` and, over keys and x, `vmap` it.

    Args:
      params: of `model`.
      key: used for this example alone.
      x: one example, of the shape the model was built for; whole numbers become floats.
      model: of `build`, `load` or `train`.
      num_samples: K >= 1.
    """
    return bounds.elbo(_log_weights(params, key, x, model, num_samples))


def iwae(
    params: Params, key: PRNGKeyArray, x: Num[Array, "..."], *, model: Model, num_samples: int
) -> Array:
    """L_K of one example, log (1/K) sum_k w_k with z_k ~ q(z|x): a scalar, in nats.

    Burda, Grosse and Salakhutdinov (2016), eq. 8. Its expectation is a lower bound on log p(x)
    that rises with K; L_1 is the ELBO. Arguments as of `elbo`; memory grows with K.
    """
    return bounds.iwae(_log_weights(params, key, x, model, num_samples))


def _log_weights(params, key, x, model, num_samples):
    if not isinstance(num_samples, (int, np.integer)) or num_samples < 1:
        raise UserError(f"num_samples: needs a whole number >= 1, got {schema.shown(num_samples)}")
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
    return importance.sample_log_weights(params, key, x, model=model, num_samples=num_samples)


def build(config: config_lib.Model, spec: DataSpec | tuple[int, ...]) -> Model:
    """The model of `config` for examples of `spec`: their shape, or a `DataSpec` with their mean.

    Raises:
      UserError: naming an option that is wrong, or shapes that do not fit.
    """
    spec = spec if isinstance(spec, DataSpec) else DataSpec(tuple(spec), None)
    return latent_variable.build(schema.checked(config, root="config.model"), spec)


def load(workdir: str | os.PathLike) -> Run:
    """The run that `scripts/train.py` left in `workdir`, at its newest checkpoint.

    Raises:
      UserError: there is no run, no checkpoint, or its data cannot be read.
    """
    folder = workdir_lib.check_path(workdir)
    config = workdir_lib.read_config(folder)
    data = splits.training_data(config)
    state = runs.load_run(folder, data.spec.shape, console=Console(quiet=True)).state
    history = json_files.read_metrics(folder / workdir_lib.METRICS)
    model = latent_variable.build(config.model, data.spec)
    params = training.evaluation_params(state)
    return Run(config, model, params, _data(config, None), history)


def train(config: Config, images: Mapping[str, np.ndarray] | None = None) -> Run:
    """Trains the run of `config` in memory; nothing is written.

    The parameters are those of `scripts/train.py` with the same config, bit for bit; what that
    would warn of, such as an option without effect, is a Python warning here.

    Args:
      config: the experiment; checked here.
      images: "train", "test" and, where there are any, "validation": arrays [N, H, W] or
        [N, H, W, C] of 0/1, whole numbers 0..255 or numbers in [0, 1], instead of the data set
        that the config names. Without "validation", `dataset.num_validation` images are cut
        from the end of "train".

    Raises:
      UserError: a bad config or bad images, or a loss that is no longer finite.
    """
    given = None if images is None else _sources(images)
    if given is not None:
        config = dataclasses.replace(config, dataset=_of_arrays(config.dataset, given))
    config = config_lib.validated(config)
    for text in consistency.warnings(config):
        warnings.warn(f"config.{text}", stacklevel=2)
    done = in_memory.train(config, given=given)
    params = training.evaluation_params(done.state)
    return Run(config, done.setup.model, params, _data(config, given), done.rows)


def evaluate(
    run: Run, *, split: str = "test", num_samples: int | None = None, seed: int | None = None
) -> Evaluated:
    """ELBO and L_k of a run on one of its splits, with errors; nothing is written.

    The numbers are those of `scripts/evaluate.py`. Other parameters of the same model are
    evaluated as `run._replace(params=...)`.

    Args:
      run: of `load` or `train`.
      split: "train", "validation" or "test".
      num_samples: K; None: that of the config.
      seed: of the samples; None: that of the config.

    Raises:
      UserError: an unknown or empty split, or a budget out of range.
    """
    if split not in Data._fields:
        raise unknown("split", split, Data._fields)
    held_out = getattr(run.data, split)
    if held_out is None:
        raise UserError("split: this run has no validation images; choose train or test")
    budget = run.config.evaluation
    for name, value in (("num_samples", num_samples), ("seed", seed)):
        if value is not None:
            budget = schema.replace(budget, name, value, root="evaluation")
    count, size = budget.num_samples, budget.chunk_size
    example_map = per_example.make(
        run.model, num_examples=len(held_out.x), num_samples=count, chunk_size=size
    )
    key = per_example.key_of(budget.seed, split)
    measured = mapping.over_examples(example_map, run.params, key, held_out.x)
    num_dims = int(np.prod(held_out.shape)) if held_out.kind == "levels" else None
    return Evaluated(
        summary.estimates(measured, num_dims=num_dims),
        summary.diagnostics(measured, num_samples=count),
        per_example.arrays(measured),
    )


def _sources(images: Mapping[str, np.ndarray]) -> splits.Sources:
    for name in images:
        if name not in splits.SPLITS:
            raise unknown("images", name, splits.SPLITS)
    for name in ("train", "test"):
        if name not in images:
            raise UserError(f"images: needs {name!r}, got {', '.join(images) or 'nothing'}")
    return sources.from_arrays(images["train"], images["test"], images.get("validation"))


def _of_arrays(dataset: config_lib.Dataset, given: splits.Sources) -> config_lib.Dataset:
    """`dataset` where the arrays stand for the splits that it would read."""
    dataset = dataclasses.replace(dataset, name="arrays", data_dir=None)
    if "validation" not in given or dataset.validation_split is not None:
        return dataset
    return dataclasses.replace(dataset, validation_split="validation", num_validation=0)


def _data(config: Config, given: splits.Sources | None) -> Data:
    read = functools.partial(splits.held_out, config, given=given)
    validation = read("validation") if config.dataset.has_validation else None
    return Data(read("train"), validation, read("test"))
