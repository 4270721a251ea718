"""Evaluating a run: from its newest checkpoint to evaluation.json, .npz and figures."""

import functools
import importlib.metadata
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vaejax import config as config_lib
from vaejax.evaluation import examples as evaluation
from vaejax.storage import logging
from vaejax.evaluation import figures as plots
from vaejax.training import runs
from vaejax.data import splits
from vaejax.training import step as training
from vaejax.storage import workdir as workdir_lib
from vaejax.config import Config
from vaejax.training.step import TrainState
from vaejax.types import Model, Params

_NUM_RECONSTRUCTIONS = 12
_PACKAGES = ("vaejax", "jax", "jaxlib", "flax", "optax", "numpy")


def evaluate(
    workdir: pathlib.Path,
    *,
    split: str = "test",
    num_samples: int | None = None,
    console: Console,
) -> dict[str, Any]:
    """Estimates all bounds of the run in `workdir` on `split`; writes and returns them.

    Raises:
      UserError: no run or checkpoint, unknown split, num_samples below 1, full disk.
    """
    config = workdir_lib.read_config(workdir)
    if num_samples is not None:
        config = config_lib.override(config, "evaluation.num_samples", num_samples)
    held_out = splits.held_out(config, split)
    _, model, state = runs.load_run(workdir, held_out.shape, console=console)
    evaluator = make_evaluator(config, model, held_out)
    result = evaluate_state(
        workdir, config, state, held_out, split=split, evaluator=evaluator, console=console
    )
    write_figures(workdir, model, state, held_out, result)
    return result


def evaluate_state(
    workdir: pathlib.Path,
    config: Config,
    state: TrainState,
    held_out: splits.HeldOut,
    *,
    split: str,
    evaluator: evaluation.Evaluator,
    console: Console,
) -> dict[str, Any]:
    """Estimates all bounds of `state` with a compiled evaluator; writes and returns them.

    One evaluator serves all runs of one model and split. Raises UserError on a full disk.
    """
    params = training.evaluation_params(state)
    per_example = _evaluate_split(config, params, held_out, evaluator, console=console)
    result = {
        "protocol": _protocol(config, split, held_out, state),
        "estimates": evaluation.estimates(per_example),
        "diagnostics": evaluation.summarize_diagnostics(per_example),
    }
    name = "evaluation" if split == "test" else f"evaluation-{split}"
    arrays = {f"value/{k}": v for k, v in per_example.values.items()}
    arrays |= {f"mc_variance/{k}": v for k, v in per_example.variances.items()}
    workdir_lib.write_npz(workdir / f"{name}.npz", arrays | {"ess": per_example.ess})
    path = workdir / f"{name}.json"
    result = _keep_evidence(path, result)
    workdir_lib.write_json(path, result)
    return result


def _keep_evidence(path: pathlib.Path, result: dict[str, Any]) -> dict[str, Any]:
    """`result` with what `evidence_run` added to an earlier evaluation of the same protocol."""
    before = workdir_lib.read_json(path) if path.is_file() else {}
    if before.get("protocol") != result["protocol"]:
        return result
    merged = {part: before[part] | result[part] for part in ("estimates", "diagnostics")}
    return before | {"protocol": result["protocol"]} | merged


def make_evaluator(config: Config, model: Model, held_out: splits.HeldOut) -> evaluation.Evaluator:
    """The compiled evaluator of `held_out` for `model`, whatever its parameters."""
    return evaluation.make_evaluator(
        evaluation.evaluate_example,
        model=model,
        num_examples=len(held_out.x),
        num_samples=config.evaluation.num_samples,
        chunk_size=config.evaluation.chunk_size,
    )


def _evaluate_split(config, params, held_out, evaluator, *, console) -> evaluation.PerExample:
    settings = config.evaluation
    key, parts, total = jax.random.key(settings.seed), [], len(held_out.x)
    with logging.progress(console, "evaluate", done=0, total=total, unit="examples") as show:
        for part in evaluation.evaluate_batches(evaluator, params, key, held_out.x):
            parts.append(part)
            show(sum(len(p.ess) for p in parts), f"K = {settings.num_samples:,}")
    return evaluation.concatenate(parts)


def _protocol(config: Config, split: str, held_out: splits.HeldOut, state: TrainState) -> dict:
    """What must agree before two evaluations may be compared, and where they come from."""
    as_dict = config_lib.to_dict(config)
    device = jax.devices()[0]
    step = state.step if state.best is None else state.best.step
    return {
        "dataset": config.dataset.name,
        "split": split,
        "num_examples": len(held_out.x),
        "binarization": held_out.binarization,
        "data_sha256": held_out.sha256,
        "num_samples": config.evaluation.num_samples,
        "model": as_dict["model"],
        "objective": as_dict["objective"],
        "biased_gradient": config_lib.biased_gradient(config.objective),
        "checkpoint_step": int(step),
        "seed": config.evaluation.seed,
        "dtype": str(jax.tree.leaves(state.params)[0].dtype),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
    }


@functools.partial(jax.jit, static_argnames="model")
def _reconstruct(params: Params, keys, x, *, model: Model):
    def reconstruct(key, x):
        return model.likelihood_mean(params, model.sample_posterior(params, key, x))

    return jax.vmap(reconstruct)(keys, x)


def write_figures(
    workdir: pathlib.Path,
    model: Model,
    state: TrainState,
    held_out: splits.HeldOut,
    result: dict[str, Any],
) -> None:
    """Bounds, samples and reconstructions of one evaluation, as figures/*.png."""
    params = training.evaluation_params(state)
    x = jnp.asarray(held_out.x[:_NUM_RECONSTRUCTIONS], jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    means = np.asarray(_reconstruct(params, keys, x, model=model))
    draws = runs.prior_means(model, params)
    figures = {
        "bounds": plots.bounds_against_samples(result),
        "samples": plots.samples(draws, held_out.shape),
        "reconstructions": plots.reconstructions(np.asarray(x), means, held_out.shape),
    }
    for name, figure in figures.items():
        runs.write_figure(workdir, name, figure)
