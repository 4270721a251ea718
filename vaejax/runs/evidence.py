"""Estimators of log p(x) for a run: what is kept of an earlier call, what is added now."""

import dataclasses
import functools
import time
from typing import Any

import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from vaejax.errors import UserError
from vaejax.evaluation import estimators, inference_gaps, means, per_example, results, summary
from vaejax.evaluation import figures as plots
from vaejax.evaluation.estimators import Task
from vaejax.evaluation.means import ExampleMean
from vaejax.evaluation.results import Estimate, EvidenceProtocol, Result
from vaejax.evidence import budgets
from vaejax.evidence import estimators as evidence
from vaejax.evidence import figures as evidence_plots
from vaejax.evidence import gaps as gap_analysis
from vaejax.runs import files
from vaejax.runs.files import Stored
from vaejax.runs.settings import Request, Settings
from vaejax.runs.subject import Subject
from vaejax.storage import logging
from vaejax.training import runs
from vaejax.types import Evidence

_SHARED = ("params_sha256", "data_sha256", "values", "dtype", "precision")
"""What must agree before evidence may stand beside an evaluation."""
_GAPS = "gaps"


def protocol(count: int, settings: budgets.Evidence) -> EvidenceProtocol:
    """What all estimators of one result share."""
    return EvidenceProtocol(num_examples=count, seed=settings.seed)


def make_task(subject: Subject, settings: Settings, request: Request, *, count: int) -> Task:
    """What is asked for on the first `count` examples. Raises UserError where it cannot be."""
    task = Task(
        budgets=settings.evidence,
        model=subject.model,
        params=subject.params,
        x=subject.held_out.x[:count],
        num_samples=settings.evaluation.num_samples,
        names=tuple(dict.fromkeys(request.estimators)),
    )
    estimators.check(task)
    for problem in gap_analysis.problems(subject.model) if request.gaps else []:
        raise UserError(f"--gaps: {problem}")
    return task


def without_rows(result: Result) -> Result:
    """`result` with the rows of its evaluation alone."""
    own = {name: row for name, row in result.estimates.items() if row.do_not_trust is None}
    watched = dataclasses.replace(result.diagnostics, divergent_moves={}, broken_chains={})
    return dataclasses.replace(
        result, estimates=own, diagnostics=watched, evidence=None, sandwich=None, gaps=None
    )


def carry_over(
    before: Stored | None, now: Stored, wanted: EvidenceProtocol | None, *, console: Console
) -> Stored:
    """`now`, an evaluation, with the evidence of an earlier call of the very same protocol.

    Args:
      before: what lay on the disk.
      now: without evidence.
      wanted: the examples and the seed of this call; None: it asks for none.
      console: is told what is dropped.
    """
    if before is None or before.result.evidence is None:
        return _started(now, wanted)
    old = before.result
    differing = _differing(old, now.result, wanted)
    if differing:
        console.print(
            f"the evidence of an earlier call is dropped: it differs in {', '.join(differing)}",
            soft_wrap=True,
        )
        return _started(now, wanted)
    kept = _started(now, old.evidence.protocol)
    rows = {name: row for name, row in old.estimates.items() if row.do_not_trust is not None}
    watched = dataclasses.replace(
        kept.result.diagnostics,
        divergent_moves=old.diagnostics.divergent_moves,
        broken_chains=old.diagnostics.broken_chains,
    )
    result = dataclasses.replace(
        kept.result,
        estimates=kept.result.estimates | rows,
        diagnostics=watched,
        evidence=dataclasses.replace(kept.result.evidence, about=old.evidence.about),
        sandwich=old.sandwich,
        gaps=old.gaps,
    )
    kept = Stored(result, now.arrays, before.evidence_arrays | kept.evidence_arrays)
    for name in old.evidence.about:
        if name in evidence.ESTIMATORS and evidence.reads_evaluation(name):
            kept = _with_results(kept, name, *_read(name, kept), seconds=0.0, budget={})
    return _without_stale_gaps(kept, console)


def _differing(old: Result, new: Result, wanted: EvidenceProtocol | None) -> list[str]:
    """In what the evidence of `old` was made otherwise than that of `new` is to be."""
    pairs = [(name, old.protocol, new.protocol) for name in _SHARED]
    if wanted is not None:
        names = [item.name for item in dataclasses.fields(wanted)]
        pairs += [(f"evidence.{name}", old.evidence.protocol, wanted) for name in names]
    return [
        name
        for name, ours, theirs in pairs
        if getattr(ours, name.rpartition(".")[2]) != getattr(theirs, name.rpartition(".")[2])
    ]


def _started(now: Stored, wanted: EvidenceProtocol | None) -> Stored:
    """`now` with the ELBO and L_K of its evaluation on the examples that estimators use."""
    if wanted is None:
        return now
    weights = per_example.weights_of(now.arrays, wanted.num_examples)
    same, arrays = {}, {}
    for name in ("elbo", f"iwae_{now.result.protocol.num_samples}"):
        value, variance = weights.values[name], weights.variances[name]
        dims = now.result.protocol.num_dims
        same[name] = summary.row(value, variance, "lower bound", num_dims=dims)
        arrays |= {f"{name}/value": value, f"{name}/variance": variance}
    layers = {name: a for name, a in now.arrays.items() if name.startswith("unit_activity/")}
    found = results.Evidence(wanted, same, {})
    return Stored(dataclasses.replace(now.result, evidence=found), now.arrays, arrays | layers)


def _read(name: str, stored: Stored) -> tuple[dict[str, Evidence], PyTree]:
    found = stored.result
    weights = per_example.weights_of(stored.arrays, found.evidence.protocol.num_examples)
    return evidence.ESTIMATORS[name].read(weights, num_samples=found.protocol.num_samples), ()


def add(subject: Subject, task: Task, stored: Stored, *, gaps: bool, console: Console) -> Stored:
    """Runs what `task` names, and the gap analysis, each written as soon as it is known.

    Raises:
      UserError: the disk is full or the folder not writable.
    """
    path = files.path_of(subject.workdir, subject.split)
    for name in task.names:
        begun = time.monotonic()
        found, tuning = _run(name, task, stored, console)
        seconds = time.monotonic() - begun
        budget = dataclasses.asdict(getattr(task.budgets, name))
        stored = _with_results(stored, name, found, tuning, seconds=seconds, budget=budget)
        if not gaps:
            stored = _without_stale_gaps(stored, console)
        stored = files.publish(path, stored)
        for figure_name, figure in evidence.ESTIMATORS[name].figures(found, tuning).items():
            runs.write_figure(subject.workdir, figure_name, figure)
    if gaps:
        stored = files.publish(path, _with_gaps(task, stored, console))
        figure = evidence_plots.gap_bars(stored.result.gaps)
        runs.write_figure(subject.workdir, _GAPS, figure)
    layers = [a for name, a in stored.arrays.items() if name.startswith("unit_activity/")]
    figure = plots.unit_activity(layers, per_example.ACTIVE_THRESHOLD)
    runs.write_figure(subject.workdir, "active_units", figure)
    return stored


def _run(
    name: str, task: Task, stored: Stored, console: Console
) -> tuple[dict[str, Evidence], PyTree]:
    if evidence.reads_evaluation(name):
        return _read(name, stored)
    total = estimators.cost(name, task)
    with logging.progress(console, name, done=0, total=total, unit="examples") as show:
        return estimators.run(name, task, done=lambda count: show(count, ""))


def _with_results(
    stored: Stored,
    name: str,
    found: dict[str, Evidence],
    tuning: PyTree,
    *,
    seconds: float,
    budget: dict[str, Any],
) -> Stored:
    """`stored` with the results of one estimator, in its rows or as a sandwich."""
    module, result = evidence.ESTIMATORS[name], stored.result
    if evidence.reads_evaluation(name):
        used = result.protocol
        budget = {"num_samples": used.num_samples, "evaluation_seed": used.seed}
    watched = next(iter(found.values())).diagnostics.watched()
    tuned = tuning._asdict() if hasattr(tuning, "_asdict") else {}
    about = watched.counts | watched.numbers
    about |= {key: np.asarray(value).tolist() for key, value in tuned.items()}
    about |= {"budget": budget, "seconds": round(seconds, 1)}
    if module.REPORT == "sandwich":
        result = dataclasses.replace(result, sandwich=summary.sandwich(**found))
    else:
        rows = {
            key: summary.row(
                row.value,
                row.variance,
                module.LABELS[key],
                row.trusted,
                num_dims=result.protocol.num_dims,
            )
            for key, row in found.items()
        }
        result = dataclasses.replace(result, estimates=result.estimates | rows)
    arrays = dict(stored.evidence_arrays)
    for key, row in found.items():
        parts = {"value": row.value, "variance": row.variance, "trusted": row.trusted}
        arrays |= {f"{key}/{part}": np.asarray(array) for part, array in parts.items()}
    result = _count_failures(result, name, found)
    kept = dataclasses.replace(result.evidence, about=result.evidence.about | {name: about})
    return Stored(dataclasses.replace(result, evidence=kept), stored.arrays, arrays)


def _count_failures(result: Result, name: str, found: dict[str, Evidence]) -> Result:
    """`result` with how often chains of one estimator diverged or broke."""
    changes = {}
    every = [row.diagnostics.watched().counts for row in found.values()]
    for count in every[0]:
        before = getattr(result.diagnostics, count)
        changes[count] = before | {name: sum(counts[count] for counts in every)}
    watched = dataclasses.replace(result.diagnostics, **changes)
    return dataclasses.replace(result, diagnostics=watched)


def _best_source(stored: Stored) -> str:
    """The most trustworthy estimate of log p(x) at hand, L_K where there is no other."""
    named = [name for name in evidence.by_trust() if name in stored.result.estimates]
    return named[0] if named else f"iwae_{stored.result.protocol.num_samples}"


def _with_gaps(task: Task, stored: Stored, console: Console) -> Stored:
    source, arrays, result = _best_source(stored), stored.evidence_arrays, stored.result
    watch = functools.partial(logging.progress, console, done=0, total=len(task.x), unit="examples")
    with watch(_GAPS) as show:
        elbos = estimators.elbos(task, done=lambda count: show(count, ""))
    with watch(f"{_GAPS}, the encoder's family") as show:
        own = estimators.encoder_family_elbos(task, done=lambda count: show(count, ""))
    elbos = elbos._replace(best=elbos.best | {gap_analysis.ENCODER_FAMILY: own})
    log_marginal = np.stack([arrays[f"{source}/value"], arrays[f"{source}/variance"]], axis=1)
    num_layers = len(result.diagnostics.active_units)
    found = inference_gaps.summarize(log_marginal, elbos, source=source, num_layers=num_layers)
    about = {_GAPS: {"budget": dataclasses.asdict(task.budgets.gaps)}}
    kept = dataclasses.replace(result.evidence, about=result.evidence.about | about)
    added = {f"gaps/elbo_{family}": best for family, best in elbos.best.items()}
    return Stored(
        dataclasses.replace(result, gaps=found, evidence=kept),
        stored.arrays,
        arrays | {"gaps/elbo": elbos.encoder} | added,
    )


def _without_stale_gaps(stored: Stored, console: Console) -> Stored:
    """`stored` without gaps whose log p(x) is no longer among its rows."""
    result = stored.result
    if result.gaps is None:
        return stored
    source, used = result.gaps.log_marginal_from, result.gaps.log_marginal
    rows = result.estimates | result.evidence.same_examples
    if source in rows and _agrees(rows[source], used):
        return stored
    console.print(
        f"the gaps of an earlier call are dropped: they stand on another {source}; give --gaps",
        soft_wrap=True,
    )
    about = {name: part for name, part in result.evidence.about.items() if name != _GAPS}
    arrays = {k: v for k, v in stored.evidence_arrays.items() if not k.startswith("gaps/")}
    kept = dataclasses.replace(result.evidence, about=about)
    return Stored(dataclasses.replace(result, gaps=None, evidence=kept), stored.arrays, arrays)


def _agrees(row: Estimate, used: ExampleMean) -> bool:
    """Whether both are one number, but for the rounding of another batch."""
    both = (means.number(row.value), means.number(used.value))
    return both[0] is not None and both[1] is not None and bool(np.isclose(*both, rtol=1e-6))
