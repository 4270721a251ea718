"""Evidence for a trained run: estimators of log p(x), gaps, and their place in evaluation.json."""

import dataclasses
import functools
import math
import pathlib
import time
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from rich.console import Console

from vaejax import config as config_lib
from vaejax import diagnostics, evaluate_run, evaluation, evidence, evidence_plots
from vaejax import evidence_report as report
from vaejax import gaps as gap_analysis
from vaejax import latents, logging, pareto, runs, splits, training
from vaejax import workdir as workdir_lib
from vaejax.config import Config
from vaejax.errors import UserError, unknown
from vaejax.types import Estimator, Evidence, Model, Params

_LEGAL_OVERRIDES = ("evidence.", "evaluation.")
_ACTIVITY_SAMPLES = 64
_ACTIVITY_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked for, checked.

    Attributes:
      config: the run's, with the budgets asked for.
      model: the run's model.
      params: its parameters.
      x: the examples that estimators use, [N, D].
      estimators: names of `evidence.ESTIMATORS`.
    """

    config: Config
    model: Model
    params: Params
    x: np.ndarray
    estimators: tuple[str, ...]


def evaluate(
    workdir: pathlib.Path,
    *,
    estimators: tuple[str, ...],
    gaps: bool = False,
    split: str = "test",
    num_samples: int | None = None,
    num_examples: int | None = None,
    overrides: dict[str, str] | None = None,
    console: Console,
) -> dict[str, Any]:
    """Adds evidence to the evaluation of the run in `workdir`; returns all of it.

    An evaluation of another checkpoint, data set or K, or none, is made anew first. Every
    estimator's result is written as soon as it is known.

    Raises:
      UserError: unknown estimator, one that this model does not allow, more examples than
        the split has, values that are not finite, or whatever an evaluation may raise.
    """
    config = _with_overrides(workdir_lib.read_config(workdir), overrides or {}, num_samples)
    for name in estimators:
        if name not in evidence.ESTIMATORS:
            raise unknown("--estimators", name, evidence.ESTIMATORS)
    held_out = splits.held_out(config, split)
    _, model, state = runs.load_run(workdir, held_out.shape, console=console)
    params = training.evaluation_params(state)
    x = _examples(held_out.x, config.evidence.num_examples, num_examples)
    task = Task(config, model, params, x, tuple(dict.fromkeys(estimators)))
    check(task)
    path = workdir / ("evaluation.json" if split == "test" else f"evaluation-{split}.json")
    result = _evaluation(path, task, held_out, state, split=split, console=console)
    arrays = _start(workdir, path, result, task)
    for name in task.estimators:
        _run_estimator(name, task, result, arrays, workdir, console)
        _save(workdir, path, result, arrays)
    if gaps:
        _run_gaps(task, result, arrays, workdir, console)
    _run_activity(task, held_out.x, result, arrays, workdir)
    _save(workdir, path, result, arrays)
    return result


def _with_overrides(config: Config, overrides: dict[str, str], num_samples: int | None) -> Config:
    if num_samples is not None:
        overrides = overrides | {"evaluation.num_samples": num_samples}
        overrides.setdefault("evidence.importance.num_samples", num_samples)
    for path in overrides:
        if not path.startswith(_LEGAL_OVERRIDES):
            raise UserError(
                f"--config.{path}: belongs to the run, which is trained; only evidence.* and "
                f"evaluation.* can be set here"
            )
    return config_lib.override_all(config, overrides) if overrides else config


def _examples(x: np.ndarray, default: int, asked: int | None) -> np.ndarray:
    """The first `asked` examples, or up to `default`; float32."""
    if asked is not None and not 2 <= asked <= len(x):
        raise UserError(f"--num_examples: must be in 2..{len(x)}, the split's size, got {asked}")
    return np.asarray(x[: asked or default], np.float32)


def check(task: Task) -> None:
    """Raises UserError for data that is not finite and for estimators that cannot run."""
    bad = np.flatnonzero(~np.isfinite(task.x).all(axis=1))
    if len(bad):
        raise UserError(
            f"dataset {task.config.dataset.name!r}: {len(bad)} examples hold values that are "
            f"not finite, the first is number {bad[0]}; clean the data"
        )
    num_latents, _ = latents.unraveller(task.params, model=task.model)
    found = [
        problem
        for name in task.estimators
        for problem in evidence.ESTIMATORS[name].problems(
            getattr(task.config.evidence, name), model=task.model, num_latents=num_latents
        )
    ]
    if found:
        raise UserError(f"--estimators: {'; '.join(found)}")


def _evaluation(path, task: Task, held_out, state, *, split: str, console) -> dict[str, Any]:
    """The evaluation at `path` if it is of this checkpoint, data and K, else a new one."""
    step = int(state.step if state.best is None else state.best.step)
    wanted = {
        "checkpoint_step": step,
        "data_sha256": held_out.sha256,
        "num_samples": task.config.evaluation.num_samples,
        "seed": task.config.evaluation.seed,
    }
    if path.is_file():
        result = workdir_lib.read_json(path)
        if wanted.items() <= result.get("protocol", {}).items():
            return result
        console.print(f"{path.name} is of another checkpoint, data set or K: evaluating anew")
    return evaluate_run.evaluate(
        path.parent,
        split=split,
        num_samples=task.config.evaluation.num_samples,
        console=console,
    )


def _start(workdir, path, result: dict[str, Any], task: Task) -> dict[str, np.ndarray]:
    """Labels every estimate, notes the bounds on the same examples; returns kept arrays."""
    count = len(task.x)
    found = result.get("evidence", {})
    kept = {}
    arrays_path = _arrays_path(workdir, path)
    if found.get("protocol", {}).get("num_examples") == count and arrays_path.is_file():
        with np.load(arrays_path) as stored:
            kept = dict(stored)
    else:
        for name in ("sandwich", "gaps"):
            result.pop(name, None)
        bounds = {k: v for k, v in result["estimates"].items() if "do_not_trust" not in v}
        result["estimates"], found = bounds, {}
    result["estimates"] = report.labelled(result["estimates"])
    with np.load(path.with_suffix(".npz")) as stored:
        names = ("elbo", f"iwae_{result['protocol']['num_samples']}")
        same = {
            name: Evidence(
                stored[f"value/{name}"][:count],
                stored[f"mc_variance/{name}"][:count],
                np.ones(count, bool),
                None,
            )
            for name in names
        }
    result["evidence"] = found | {
        "protocol": {"num_examples": count, "seed": task.config.evidence.seed},
        "same_examples": {
            name: {
                key: value
                for key, value in report.estimate(row, "lower bound").items()
                if key != "do_not_trust"
            }
            for name, row in same.items()
        },
    }
    return kept | {
        f"{name}/{part}": getattr(row, part)
        for name, row in same.items()
        for part in ("value", "variance")
    }


def _arrays_path(workdir: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    return workdir / f"{path.stem.replace('evaluation', 'evidence')}.npz"


def _save(workdir, path, result: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    workdir_lib.write_npz(_arrays_path(workdir, path), arrays)
    workdir_lib.write_json(path, result)


def name_key(seed: int, name: str) -> PRNGKeyArray:
    """The key of one estimator: independent of which others run."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def map_examples(
    function: Any,
    x: Float[np.ndarray, "N D"],
    key: PRNGKeyArray,
    *,
    batch: int,
    console: Console,
    title: str,
) -> PyTree:
    """`function(key_i, x_i)` for every example, `batch` at a time, stacked on the host.

    Example i uses fold_in(key, i), so a result does not depend on the batch.
    """
    size = -(-len(x) // -(-len(x) // batch))

    @jax.jit
    def call(indices, rows):
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        return jax.vmap(function)(keys, rows)

    parts = []
    with logging.progress(console, title, done=0, total=len(x), unit="examples") as show:
        for start in range(0, len(x), size):
            rows = x[start : start + size]
            padded = np.pad(rows, ((0, size - len(rows)), (0, 0)), mode="edge")
            out = call(jnp.arange(start, start + size), jnp.asarray(padded))
            parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], out))  # noqa: B023
            show(min(start + size, len(x)), "")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def estimate(name: str, task: Task, *, console: Console) -> tuple[dict[str, Evidence], PyTree]:
    """Per-example results of one estimator over the task's examples, and its tuning.

    Pilot and scored run have keys of their own. Importance sampling uses the evaluation's
    key, and so its very samples.
    """
    settings = task.config.evidence
    estimator: Estimator = evidence.ESTIMATORS[name].build(
        getattr(settings, name), model=task.model
    )
    pilot_key, key = jax.random.split(name_key(settings.seed, name))
    if name == "importance":
        key = jax.random.key(task.config.evaluation.seed)
    params = task.params
    budget = getattr(settings, name)
    pilot_x = jnp.asarray(task.x[: getattr(budget, "pilot_examples", 1)])
    tuning = jax.jit(estimator.pilot)(params, pilot_key, pilot_x)
    x = task.x
    if estimator.num_examples is not None:
        x = np.zeros((estimator.num_examples, x.shape[1]), np.float32)
    results = map_examples(
        lambda key, row: estimator.estimate(params, key, row, tuning),
        x,
        key,
        batch=max(1, settings.rows_per_call // estimator.rows),
        console=console,
        title=name,
    )
    return results, jax.tree.map(np.asarray, tuning)


def _run_estimator(name, task: Task, result, arrays, workdir, console) -> None:
    begun = time.monotonic()
    results, tuning = estimate(name, task, console=console)
    labels = evidence.ESTIMATORS[name].LABELS
    about = report.watched(next(iter(results.values())))
    about |= {key: np.asarray(value).tolist() for key, value in _tuned(tuning).items()}
    about |= {
        "budget": dataclasses.asdict(getattr(task.config.evidence, name)),
        "seconds": round(time.monotonic() - begun, 1),
    }
    result["evidence"][name] = about
    if name == "bidirectional":
        result["sandwich"] = report.sandwich(results["lower"], results["upper"])
    else:
        rows = {key: report.estimate(row, labels[key]) for key, row in results.items()}
        result["estimates"] |= rows
    for key, row in results.items():
        arrays |= {f"{key}/value": row.value, f"{key}/variance": row.variance}
        arrays[f"{key}/trusted"] = row.trusted
    _note_diagnostics(name, results, result)
    for figure_name, figure in _figures(name, results, tuning, task).items():
        runs.write_figure(workdir, figure_name, figure)


def _tuned(tuning: PyTree) -> dict[str, Any]:
    return tuning._asdict() if hasattr(tuning, "_asdict") else {}


def _note_diagnostics(name: str, results: dict[str, Evidence], result: dict[str, Any]) -> None:
    """Shares of examples that are flagged, and everything that diverged."""
    row = next(iter(results.values()))
    if name == "importance":
        result["diagnostics"] |= {
            "pareto_k_bad": float(np.mean(row.diagnostics.pareto_k_bad)),
            "do_not_trust": float(1.0 - np.mean(row.trusted)),
        }
    for count in ("divergent_moves", "broken_chains"):
        if hasattr(row.diagnostics, count):
            totals = result["diagnostics"].setdefault(count, {})
            totals[name] = int(sum(getattr(r.diagnostics, count).sum() for r in results.values()))


def _figures(name: str, results: dict[str, Evidence], tuning: PyTree, task: Task) -> dict[str, Any]:
    row = next(iter(results.values()))
    if name == "importance":
        size = task.config.evidence.importance.num_samples
        k_hats = row.diagnostics.pareto_k
        if not np.isfinite(k_hats).any():
            return {}
        return {"pareto_k": evidence_plots.pareto_k(k_hats, pareto.threshold(size), size)}
    if name in ("annealed", "bidirectional"):
        acceptance = row.diagnostics.acceptance.mean(axis=0)
        return {f"{name}_moves": evidence_plots.annealing(*tuning, acceptance)}
    return {}


def _run_gaps(task: Task, result, arrays, workdir, console) -> None:
    """Uses the best estimate of log p(x) at hand, L_K where there is no other."""
    settings = task.config.evidence.gaps
    elbos = map_examples(
        functools.partial(_elbos, task, settings),
        task.x,
        name_key(task.config.evidence.seed, "gaps"),
        batch=max(1, task.config.evidence.rows_per_call // settings.num_samples),
        console=console,
        title="gaps",
    )
    source = report.best_estimate(result["estimates"])
    source = source or f"iwae_{result['protocol']['num_samples']}"
    log_marginal = np.stack([arrays[f"{source}/value"], arrays[f"{source}/variance"]], axis=1)
    num_layers = len(result["diagnostics"]["active_units"])
    result["gaps"] = report.gaps(log_marginal, elbos, source=source, num_layers=num_layers)
    result["evidence"]["gaps"] = {"budget": dataclasses.asdict(settings)}
    arrays["gaps/elbo"] = elbos.encoder
    arrays |= {f"gaps/elbo_{family}": best for family, best in elbos.best.items()}
    runs.write_figure(workdir, "gaps", evidence_plots.gap_bars(result["gaps"]))


def _elbos(task: Task, settings, key: PRNGKeyArray, x: Float[Array, "D"]) -> gap_analysis.Elbos:
    return gap_analysis.elbos(task.params, key, x, model=task.model, config=settings)


def _run_activity(task: Task, x: np.ndarray, result, arrays, workdir) -> None:
    """Var_x(E_q[u]) of every unit over the whole split, and its histogram."""
    activity = unit_activity(task.params, x, model=task.model)
    arrays |= {f"unit_activity/layer_{i}": layer for i, layer in enumerate(activity, 1)}
    threshold = evaluation.ACTIVE_THRESHOLD
    result["diagnostics"]["active_units"] = [int((u > threshold).sum()) for u in activity]
    figure = evidence_plots.unit_activity(activity, threshold)
    runs.write_figure(workdir, "active_units", figure)


def unit_activity(params: Params, x: np.ndarray, *, model: Model) -> list[np.ndarray]:
    """Var_x(E_q[u]) per unit and layer; a deeper layer's mean averages 64 samples below it."""

    def moments(row):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), row[0]), _ACTIVITY_SAMPLES)
        means = jax.vmap(lambda key: model.posterior_mean(params, key, row[1]))(keys)
        return [diagnostics.mean_moments(layer) for layer in jax.tree.leaves(means)]

    rows = (jnp.arange(len(x)), jnp.asarray(x, jnp.float32))
    layers = jax.jit(lambda rows: jax.lax.map(moments, rows, batch_size=_ACTIVITY_BATCH))(rows)
    return [
        np.asarray(diagnostics.unit_activity(np.asarray(means, np.float64), np.asarray(noise)))
        for means, noise in layers
    ]
