"""What training and evaluation of a run share: its model, its checkpoints, its figures."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from rich.console import Console

from vaejax import config as config_lib
from vaejax import hosts, keys
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.storage import checkpoints, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import step as training
from vaejax.training.step import TrainState
from vaejax.types import DataSpec, Model, Params

CHECKPOINTS = "checkpoints"
NUM_PICTURES = 64


class Trained(NamedTuple):
    """A run as its newest readable checkpoint has it."""

    config: Config
    model: Model
    state: TrainState


def restore(workdir: pathlib.Path, like: TrainState, *, console: Console) -> TrainState | None:
    """The newest readable state of a run, or None where it has none yet.

    Of several hosts the first one reads it, and tells the others.

    Raises:
      UserError: checkpoints that cannot be read, or of another model.
    """
    path = workdir / CHECKPOINTS
    state, damaged = hosts.from_first(lambda: checkpoints.restore(path, like))
    for warning in damaged:
        logging.warn(console, warning)
    return state


def load_run(workdir: pathlib.Path, shape: tuple[int, ...], *, console: Console) -> Trained:
    """The run in `workdir`, whose images have `shape`.

    Raises:
      UserError: no run, no checkpoint, or a checkpoint of another model.
    """
    config = workdir_lib.read_config(workdir)
    spec = DataSpec(shape, None, config.dataset.levels)
    model = latent_variable.build(config.model, spec)
    like = jax.eval_shape(lambda: training.init_state(config, model=model))
    state = restore(workdir, like, console=console)
    if state is None:
        raise UserError(f"{workdir} has no checkpoint; train it first")
    return Trained(config, model, state)


def start_params(config: Config, spec: DataSpec, *, console: Console) -> Params | None:
    """The parameters of the run that `config.training.start_from` names, or None.

    `{seed}` in the name stands for the seed of `config`, so that the members of a sweep over seeds
    each go on from the run of their own seed. Warns of a run that is not at its end.

    Raises:
      UserError: no such run, or one of another model.
    """
    if config.training.start_from is None:
        return None
    path = config.training.start_from.replace("{seed}", str(config.seed))
    workdir = workdir_lib.check_path(path, flag="config.training.start_from")
    try:
        theirs = workdir_lib.read_config(workdir)
        found = config_lib.differences(config, dataclasses.replace(config, model=theirs.model))
        if found:
            raise UserError(f"{workdir} has another model (ours != there): {'; '.join(found)}")
        state = load_run(workdir, spec.shape, console=console).state
        epoch = _epoch_if_unfinished(workdir, theirs, state)
    except UserError as error:
        raise UserError(f"config.training.start_from: {error}") from error
    if epoch is not None:
        logging.warn(
            console,
            f"config.training.start_from: {workdir} is at epoch {epoch:.4g} of "
            f"{theirs.training.num_epochs}: its training is not finished",
        )
    return training.evaluation_params(state)


def _epoch_if_unfinished(workdir: pathlib.Path, config: Config, state: TrainState) -> float | None:
    """Where the run in `workdir` stands; None: at its end, or its metrics do not say.

    From the metrics, because the images themselves need not be at hand.
    """
    patience = config.training.patience
    if patience is not None and state.best is not None and int(state.best.stale) >= patience:
        return None
    rows = logging.read_metrics(workdir / workdir_lib.METRICS)
    per_epoch = [row["step"] / row["epoch"] for row in rows if row.get("epoch")]
    if not per_epoch or int(state.step) >= round(config.training.num_epochs * per_epoch[-1]):
        return None
    return int(state.step) / per_epoch[-1]


@functools.partial(jax.jit, static_argnames=("model", "count"))
def _prior_means(
    params: Params, key: PRNGKeyArray, *, model: Model, count: int
) -> Float[Array, "N ..."]:
    def draw(key):
        return model.intensities(model.likelihood(params, model.prior(params).sample(key)).mean)

    return jax.vmap(draw)(jax.random.split(key, count))


def prior_means(model: Model, params: Params) -> np.ndarray:
    """E[x|z] for 64 fixed draws z ~ p(z), as pictures have it, in [0, 1]: [64, ...]."""
    key = keys.domain(0, "figures/prior")
    return np.asarray(_prior_means(params, key, model=model, count=NUM_PICTURES))


def write_figure(workdir: pathlib.Path, name: str, figure: Any) -> None:
    """Saves a matplotlib figure as figures/name.png, atomically."""
    workdir_lib.write_atomically(
        workdir / "figures" / f"{name}.png",
        lambda handle: figure.savefig(handle, format="png", dpi=150),
        root=workdir,
    )
