"""What training and evaluation of a run share: its model, its checkpoints, its figures."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.models import registry as models
from vaejax.storage import checkpoints
from vaejax.storage import workdir as workdir_lib
from vaejax.training import step as training
from vaejax.training.step import TrainState
from vaejax.types import DataSpec, Model, Params

NUM_PICTURES = 64


def build_model(config: Config, spec: DataSpec) -> Model:
    """The model of `config.model` for data of `spec`."""
    return models.MODELS[config.model.name].build(config.model, spec)


def restore(
    workdir: pathlib.Path, like: TrainState, *, console: Console
) -> tuple[TrainState | None, bool]:
    """The newest readable state of a run (or None), and whether damaged ones were skipped."""
    state, damaged = checkpoints.restore(workdir / "checkpoints", like)
    for warning in damaged:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    return state, bool(damaged)


def load_run(workdir: pathlib.Path, shape: tuple[int, ...], *, console: Console):
    """Config, model and newest readable TrainState of the run in `workdir`.

    Raises:
      UserError: no run, no checkpoint, or a checkpoint of another model.
    """
    config = workdir_lib.read_config(workdir)
    model = build_model(config, DataSpec(shape, None))
    like = jax.eval_shape(lambda: training.init_state(config, model=model))
    state, _ = restore(workdir, like, console=console)
    if state is None:
        raise UserError(f"--workdir: {workdir} has no readable checkpoint; train it first")
    return config, model, state


def start_params(config: Config, spec: DataSpec, *, console: Console) -> Params | None:
    """The parameters of the run that `config.training.start_from` names, or None.

    Raises:
      UserError: no such run, or one of another model.
    """
    if config.training.start_from is None:
        return None
    workdir = pathlib.Path(config.training.start_from)
    try:
        theirs = workdir_lib.read_config(workdir)
        found = config_lib.differences(config, dataclasses.replace(config, model=theirs.model))
        if found:
            raise UserError(f"{workdir} has another model (ours != there): {'; '.join(found)}")
        return training.evaluation_params(load_run(workdir, spec.shape, console=console)[2])
    except UserError as error:
        text = str(error).removeprefix("--workdir: ")
        raise UserError(f"config.training.start_from: {text}") from error


@functools.partial(jax.jit, static_argnames=("model", "count"))
def _prior_means(params: Params, key: Array, *, model: Model, count: int) -> Float[Array, "N D"]:
    def draw(key):
        return model.likelihood_mean(params, model.sample_prior(params, key))

    return jax.vmap(draw)(jax.random.split(key, count))


def prior_means(model: Model, params: Params) -> np.ndarray:
    """E[x|z] for 64 fixed draws z ~ p(z), [64, D]."""
    return np.asarray(_prior_means(params, jax.random.key(0), model=model, count=NUM_PICTURES))


def write_figure(workdir: pathlib.Path, name: str, figure: Any) -> None:
    """Saves a matplotlib figure as figures/name.png, atomically."""
    workdir_lib.write_atomically(
        workdir / "figures" / f"{name}.png",
        lambda handle: figure.savefig(handle, format="png", dpi=150),
    )
