"""What a run leaves of its training: rows of metrics, pictures, figures."""

import pathlib

import numpy as np

from vaejax import hosts
from vaejax.storage import logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import runs
from vaejax.training import step as training
from vaejax.training.programs import Setup
from vaejax.training.step import Plan, TrainState


def divergence(metrics: training.Metrics, *, step: int) -> str | None:
    """Where the loss or the parameters of a scan that ended at `step` are not finite; None:
    nowhere."""
    losses, skipped = np.asarray(metrics["loss"]), _skipped(metrics)
    if skipped.all():
        return (
            f"training diverged: all of the {len(losses)} steps before step {step} were skipped; "
            f"raise optimizer.skip_norm, or try a smaller optimizer.learning_rate"
        )
    finite = [*(np.isfinite(losses) | skipped), bool(metrics["params_finite"])]
    if all(finite):
        return None
    first_bad = step - len(losses) + int(np.argmin(finite))
    what = "the loss" if not all(finite[:-1]) else "a parameter"
    return (
        f"training diverged: {what} is not finite at step {first_bad}; try a smaller "
        f"optimizer.learning_rate, a larger optimizer.eps, objective.warmup_epochs, or another "
        f"objective.bound if this one is not a lower bound"
    )


def metrics_row(plan: Plan, metrics: training.Metrics, *, step: int) -> dict[str, float]:
    """Means over the steps of one scan that ended at `step`, but for those that were skipped;
    `train/skipped_steps` counts these from the first step of the run on."""
    kept, counts = ~_skipped(metrics), ("params_finite", "skipped", "skipped_steps")
    row = {"epoch": step / plan.steps_per_epoch}
    row |= {
        f"train/{k}": float(np.mean(np.asarray(v)[kept]))
        for k, v in metrics.items()
        if k not in counts
    }
    if "skipped_steps" in metrics:
        row["train/skipped_steps"] = float(metrics["skipped_steps"][-1])
    return row


def _skipped(metrics: training.Metrics) -> np.ndarray:
    """Which steps of one scan were skipped."""
    return np.asarray(metrics.get("skipped", np.zeros(len(metrics["loss"]), bool)))


def validation_due(setup: Setup, step: int) -> bool:
    """Whether a run is validated at `step`."""
    epoch, rest = divmod(step, setup.plan.steps_per_epoch)
    every = setup.config.training.validate_every
    return rest == 0 and (epoch % every == 0 or step >= setup.plan.num_steps)


def pictures_due(setup: Setup, step: int) -> bool:
    """Whether `step`, at the end of an epoch, is one of the ten of a run with pictures."""
    every = max(1, setup.config.training.num_epochs // 10)
    return step // setup.plan.steps_per_epoch % every == 0


def write_pictures(setup: Setup, state: TrainState, writer: logging.MetricsWriter) -> None:
    """Prior samples to TensorBoard; of several hosts the first one draws them."""
    if not hosts.is_first():
        return
    from vaejax.evaluation import figures as plots  # matplotlib is not needed to begin

    means = runs.prior_means(setup.model, training.averaged_params(state))
    picture = plots.image_grid(means, setup.data.spec.shape, 8)
    writer.image(int(state.step), "samples", picture)


def write_training_figures(setup: Setup, workdir: pathlib.Path, state: TrainState) -> None:
    """Training curves and prior samples of a finished run, by the first host."""
    if not hosts.is_first():
        return
    from vaejax.evaluation import figures as plots

    rows = logging.read_metrics(workdir / workdir_lib.METRICS)
    runs.write_figure(workdir, "training", plots.training_curves(rows))
    means = runs.prior_means(setup.model, training.evaluation_params(state))
    runs.write_figure(workdir, "samples", plots.samples(means, setup.data.spec.shape))


def seconds_spent(workdir: pathlib.Path, step: int) -> float:
    """Training time of the run in `workdir` up to `step`."""
    rows = logging.read_metrics(workdir / workdir_lib.METRICS)
    return max([row.get("seconds", 0.0) for row in rows if row["step"] <= step], default=0.0)
