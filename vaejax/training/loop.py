"""Training a run: the loop around the pure functions of `training`, with all its I/O."""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.evaluation import examples as evaluation
from vaejax.evaluation import figures as plots
from vaejax.storage import checkpoints, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import memory, runs
from vaejax.training import step as training
from vaejax.training.step import Plan, TrainState
from vaejax.types import Model, Params


class Session(NamedTuple):
    """Everything one training process works with."""

    config: Config
    workdir: pathlib.Path
    console: Console
    model: Model
    plan: Plan
    data: splits.TrainingData


def train(config: Config, workdir: pathlib.Path, *, console: Console) -> TrainState:
    """Trains, or resumes, the run of `config` in `workdir`, and returns its last state.

    The end state does not depend on how often the run was killed and started again.

    Raises:
      UserError: bad config or data, a workdir of another config or in use by another
        trainer, a full disk, or a loss that is no longer finite.
    """
    config_lib.validate(config)
    with stop_signal() as stopped:
        data = splits.training_data(config)
        session = Session(
            config,
            workdir,
            console,
            runs.build_model(config, data.spec),
            training.make_plan(config, len(data.images)),
            data,
        )
        with workdir_lib.lock(workdir):
            workdir_lib.claim(workdir, config)
            state = _first_state(session)
            if _finished(session, state):
                console.print(f"{workdir}: already finished at step {int(state.step):,}")
            else:
                state = _train_to_end(session, state, stopped)
            if not _finished(session, state):
                console.print(f"stopped at step {int(state.step):,}; run again to resume")
            else:
                write_training_figures(session, state)
    return state


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM or SIGINT has come."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return
    names = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(name, lambda *_: event.set()) for name in names]
    try:
        yield event.is_set
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _first_state(session: Session) -> TrainState:
    """The newest readable checkpoint, else the initial state."""
    folder = session.workdir / "checkpoints"
    initial = jax.jit(
        lambda numbers: training.init_state(
            config_lib.with_numbers(session.config, numbers), model=session.model
        )
    )(config_lib.traced_numbers(session.config))
    like = jax.eval_shape(lambda: initial)
    state, damaged = runs.restore(session.workdir, like, console=session.console)
    if state is None:
        if damaged:
            session.console.print("no readable checkpoint is left; starting from step 0")
        start = runs.start_params(session.config, session.data.spec, console=session.console)
        state = training.started_from(initial, start)
    else:
        session.console.print(f"resuming from step {int(state.step):,}")
    if damaged:
        checkpoints.discard_after(folder, int(state.step))
    return state


def _finished(session: Session, state: TrainState) -> bool:
    stale = 0 if state.best is None else int(state.best.stale)
    return is_finished(session, int(state.step), stale)


def is_finished(session: Session, step: int, stale: int) -> bool:
    """Whether a run at `step` with `stale` validations without improvement is at its end."""
    patience = session.config.training.patience
    return step >= session.plan.num_steps or (patience is not None and stale >= patience)


def compile_call(
    session: Session, state: TrainState
) -> Callable[[TrainState], tuple[TrainState, dict]]:
    """`training.train_call` with data on the device, traced numbers, and donated state.

    Raises:
      UserError: it needs more memory than the device has.
    """
    images = jnp.asarray(session.data.images)
    numbers = config_lib.traced_numbers(session.config)

    def call(numbers, state, images):
        config = config_lib.with_numbers(session.config, numbers)
        return training.train_call(
            state, images, config=config, model=session.model, plan=session.plan
        )

    compiled = jax.jit(call, donate_argnums=1).lower(numbers, state, images).compile()
    memory.check_training(compiled, session.config, limit=memory.device_bytes(jax.devices()[0]))
    return lambda state: compiled(numbers, state, images)


def _make_validator(session: Session) -> Callable[[Params], dict[str, float]]:
    """A function from parameters to mean ELBO and L_K on the validation set (or {})."""
    held_out = session.data.validation
    if held_out is None:
        return lambda params: {}
    settings = session.config.evaluation
    evaluator = evaluation.make_evaluator(
        evaluation.validation_bounds,
        model=session.model,
        num_examples=len(held_out.x),
        num_samples=session.config.training.validation_samples,
        chunk_size=settings.chunk_size,
    )
    key = jax.random.key(settings.seed)

    def validate(params: Params) -> dict[str, float]:
        parts = list(evaluation.evaluate_batches(evaluator, params, key, held_out.x))
        values = evaluation.concatenate(parts)
        return {
            f"validation/{name}": float(np.mean(v, dtype=np.float64)) for name, v in values.items()
        }

    return validate


def _train_to_end(session: Session, state: TrainState, stopped: Callable[[], bool]) -> TrainState:
    config, plan = session.config, session.plan
    batch_size, first = config.training.batch_size, int(state.step)
    call, validate = compile_call(session, state), _make_validator(session)
    last_saved, folder = first, session.workdir / "checkpoints"
    rows = logging.read_metrics(session.workdir / workdir_lib.METRICS)
    spent = max([row.get("seconds", 0.0) for row in rows if row["step"] <= first], default=0.0)
    begun = saved_at = time.monotonic()
    with (
        logging.metrics_writer(session.workdir, step=first) as writer,
        logging.progress(
            session.console,
            "train",
            done=first * batch_size,
            total=plan.num_steps * batch_size,
            unit="examples",
        ) as show,
    ):
        while not (_finished(session, state) or stopped()):
            state, metrics = call(state)
            row = metrics_row(session, int(state.step), metrics, last_saved)
            if validation_due(session, int(state.step)):
                row |= validate(training.averaged_params(state))
                if state.best is not None:
                    state = training.update_best(state, jnp.float32(row["validation/iwae"]))
                write_pictures(session, state, writer)
            row["seconds"] = round(spent + time.monotonic() - begun, 3)
            writer.scalars(int(state.step), row)
            shown = "validation/iwae" if "validation/iwae" in row else "train/elbo"
            show(int(state.step) * batch_size, f"{shown} {row[shown]:.2f}")
            if time.monotonic() - saved_at >= config.training.checkpoint_seconds:
                checkpoints.save(folder, state, keep=config.training.checkpoints_to_keep)
                saved_at, last_saved = time.monotonic(), int(state.step)
        checkpoints.save(folder, state, keep=config.training.checkpoints_to_keep)
    return state


def metrics_row(session: Session, step: int, metrics: dict, last_saved: int) -> dict[str, float]:
    """Means over the call's steps; raises UserError where the loss is not finite."""
    losses = np.asarray(metrics["loss"])
    finite = [*np.isfinite(losses), bool(metrics["params_finite"])]
    if not all(finite):
        first_bad = step - len(losses) + int(np.argmin(finite))
        raise UserError(
            f"training diverged: not finite at step {first_bad}; the last good "
            f"checkpoint in {session.workdir} is of step {last_saved}; try a smaller "
            f"optimizer.learning_rate, a larger optimizer.eps or objective.warmup_epochs"
        )
    means = {f"train/{k}": float(np.mean(v)) for k, v in metrics.items() if k != "params_finite"}
    return {"epoch": step / session.plan.steps_per_epoch} | means


def validation_due(session: Session, step: int) -> bool:
    """Whether the run is validated at `step`."""
    epoch, rest = divmod(step, session.plan.steps_per_epoch)
    every = session.config.training.validate_every
    return rest == 0 and (epoch % every == 0 or step >= session.plan.num_steps)


def pictures_due(session: Session, step: int) -> bool:
    """Whether `step`, at the end of an epoch, is one of the ten of a run with pictures."""
    every = max(1, session.config.training.num_epochs // 10)
    return step // session.plan.steps_per_epoch % every == 0


def write_pictures(session: Session, state: TrainState, writer: logging.MetricsWriter) -> None:
    """Prior samples to TensorBoard, where they are due."""
    if pictures_due(session, int(state.step)):
        means = runs.prior_means(session.model, training.averaged_params(state))
        writer.image(
            int(state.step), "samples", plots.image_grid(means, session.data.spec.shape, 8)
        )


def write_training_figures(session: Session, state: TrainState) -> None:
    """Training curves and prior samples of a finished run."""
    rows = logging.read_metrics(session.workdir / workdir_lib.METRICS)
    runs.write_figure(session.workdir, "training", plots.training_curves(rows))
    params = training.evaluation_params(state)
    means = runs.prior_means(session.model, params)
    runs.write_figure(session.workdir, "samples", plots.samples(means, session.data.spec.shape))
