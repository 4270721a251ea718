"""What is evaluated: a run at its newest checkpoint, the examples, and the protocol of both."""

import dataclasses
import hashlib
import importlib.metadata
import math
import pathlib
import platform

import jax
import numpy as np
from rich.console import Console

from vaejax import config as config_lib
from vaejax.config import Config, Evaluation
from vaejax.data import splits
from vaejax.evaluation import mapping, per_example
from vaejax.evaluation.results import Protocol
from vaejax.storage import workdir as workdir_lib
from vaejax.training import runs
from vaejax.training import step as training
from vaejax.training.step import TrainState
from vaejax.types import Model, Params

_PACKAGES = ("vaejax", "jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
      workdir: folder of the run.
      config: the run's.
      model: the run's.
      state: the run's, as its newest checkpoint has it.
      split: name of the examples.
      held_out: the examples.
      finished: whether the run is at its end.
    """

    workdir: pathlib.Path
    config: Config
    model: Model
    state: TrainState
    split: str
    held_out: splits.HeldOut
    finished: bool

    @property
    def params(self) -> Params:
        """The parameters the run is judged by."""
        return training.evaluation_params(self.state)


def load(
    workdir: pathlib.Path, split: str, *, config: Config | None = None, console: Console
) -> Subject:
    """The run in `workdir` at its newest checkpoint, and the examples. Raises UserError."""
    config = workdir_lib.read_config(workdir) if config is None else config
    held_out = splits.held_out(config, split)
    _, model, state = runs.load_run(workdir, held_out.x.shape[1:], console=console)
    plan = training.make_plan(config, splits.num_training(config))
    stale = 0 if state.best is None else int(state.best.stale)
    finished = training.is_finished(config, plan, step=int(state.step), stale=stale)
    return Subject(workdir, config, model, state, split, held_out, finished)


def unfinished_line(subject: Subject) -> str:
    """What to know of a run that is not at its end."""
    return (
        f"{subject.workdir}: training is not finished, this is step {int(subject.state.step):,}; "
        f"train on before you compare it with others"
    )


def params_sha256(params: Params) -> str:
    """Hash of names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def protocol(subject: Subject, evaluation: Evaluation) -> Protocol:
    """How `subject` is evaluated with that budget."""
    config, state, device = subject.config, subject.state, jax.devices()[0]
    as_dict = config_lib.to_dict(config)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return Protocol(
        dataset=config.dataset.name,
        split=subject.split,
        num_examples=len(subject.held_out.x),
        binarization=subject.held_out.binarization,
        data_sha256=subject.held_out.sha256,
        num_samples=evaluation.num_samples,
        model=as_dict["model"],
        objective=as_dict["objective"],
        biased_gradient=config_lib.biased_gradient(config.objective),
        checkpoint_step=int(state.step if state.best is None else state.best.step),
        trained_steps=int(state.step),
        num_epochs=config.training.num_epochs,
        finished=subject.finished,
        params_sha256=params_sha256(subject.params),
        seed=evaluation.seed,
        dtype=str(per_example.dtype(subject.params, subject.held_out.x, model=subject.model)),
        precision=mapping.PRECISION,
        training_precision=config.training.precision,
        versions={"python": platform.python_version()} | versions,
        device=f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        values=subject.held_out.values,
        num_dims=math.prod(subject.held_out.shape) if subject.held_out.kind == "levels" else None,
        skipped_steps=None if state.skipped is None else int(state.skipped),
    )
