"""Evidence for a trained run: estimators of log p(x), gaps, and their place in evaluation.json."""

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from vaejax import config as config_lib
from vaejax.runs import evaluate as evaluate_run
from vaejax.evaluation import examples as evaluation
from vaejax.evidence import estimators as evidence
from vaejax.runs import figures as evidence_plots
from vaejax.runs import tasks as evidence_tasks
from vaejax.evidence import pareto
from vaejax.training import runs
from vaejax.data import splits
from vaejax.training import step as training
from vaejax.runs import summary as report
from vaejax.storage import workdir as workdir_lib
from vaejax.config import Config
from vaejax.errors import UserError, unknown
from vaejax.runs.tasks import Task
from vaejax.types import Evidence

_LEGAL_OVERRIDES = ("evidence.", "evaluation.")


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
    evidence_tasks.check(task)
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


def _run_estimator(name, task: Task, result, arrays, workdir, console) -> None:
    begun = time.monotonic()
    results, tuning = evidence_tasks.estimate(name, task, console=console)
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
    elbos = evidence_tasks.elbos(task, console=console)
    source = report.best_estimate(result["estimates"])
    source = source or f"iwae_{result['protocol']['num_samples']}"
    log_marginal = np.stack([arrays[f"{source}/value"], arrays[f"{source}/variance"]], axis=1)
    num_layers = len(result["diagnostics"]["active_units"])
    result["gaps"] = report.gaps(log_marginal, elbos, source=source, num_layers=num_layers)
    result["evidence"]["gaps"] = {"budget": dataclasses.asdict(task.config.evidence.gaps)}
    arrays["gaps/elbo"] = elbos.encoder
    arrays |= {f"gaps/elbo_{family}": best for family, best in elbos.best.items()}
    runs.write_figure(workdir, "gaps", evidence_plots.gap_bars(result["gaps"]))


def _run_activity(task: Task, x: np.ndarray, result, arrays, workdir) -> None:
    """Var_x(E_q[u]) of every unit over the whole split, and its histogram."""
    activity = evidence_tasks.unit_activity(task.params, x, model=task.model)
    arrays |= {f"unit_activity/layer_{i}": layer for i, layer in enumerate(activity, 1)}
    threshold = evaluation.ACTIVE_THRESHOLD
    result["diagnostics"]["active_units"] = [int((u > threshold).sum()) for u in activity]
    figure = evidence_plots.unit_activity(activity, threshold)
    runs.write_figure(workdir, "active_units", figure)
