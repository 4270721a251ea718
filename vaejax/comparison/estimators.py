"""Settings by estimators of log p(x), beside L_K: is a difference the models' or that of their q?

L_K rests on q(z|x): at finite K it measures q beside the model. An estimator that rests on q less,
such as AIS, tells the two apart (Wu et al., 2017). Pure functions; `run` reads what they need.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vaejax.comparison import report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Estimates, Run, Setting
from vaejax.evidence import estimators as evidence
from vaejax.runs.files import Stored
from vaejax.storage import html_page

_SAME_AS_TOP_BOUND = "importance"
_MISSED = "missed"


class Measured(NamedTuple):
    """What all runs of a table can be compared by.

    Attributes:
      names: results that all runs have, of the same examples and seed and with one budget.
      top: the L_K that stands beside them, on the same examples.
      num_examples: N.
      left_out: sentences on what some runs have and others have not, or otherwise.
    """

    names: list[str]
    top: str
    num_examples: int
    left_out: list[str]


def measured(stored: Mapping[str, Stored]) -> Measured | None:
    """What the runs share; None where no run has estimates of log p(x) beside its evaluation.

    Args:
      stored: the files of every run, by its name; they agree in the protocol of the evaluation.
    """
    first = next(iter(stored.values())).result
    top = f"iwae_{first.protocol.num_samples}"
    every = [*dict.fromkeys(key for item in stored.values() for key in _results_of(item))]
    if not every:
        return None
    problem = _unlike_examples(stored)
    if problem:
        return Measured([], top, 0, [f"No comparison by {', '.join(every)}: {problem}."])
    problems = {key: _unlike(key, stored) for key in every}
    left_out = [f"No comparison by {k}: {text}." for k, text in problems.items() if text]
    names = [key for key, text in problems.items() if text is None]
    return Measured(names, top, first.evidence.protocol.num_examples, left_out)


def _unlike_examples(stored: Mapping[str, Stored]) -> str | None:
    """Why nothing can be compared: a run without evidence, or of other examples or seed."""
    without = [name for name, item in stored.items() if item.result.evidence is None]
    if without:
        return f"there is none of {', '.join(without)}"
    protocols = {name: item.result.evidence.protocol for name, item in stored.items()}
    if len({*protocols.values()}) == 1:
        return None
    said = [f"{p.num_examples:,} with seed {p.seed} in {name}" for name, p in protocols.items()]
    return f"of unlike examples ({', '.join(said)})"


def _unlike(key: str, stored: Mapping[str, Stored]) -> str | None:
    """Why the result `key` cannot be compared: a run lacks it, or spent another budget on it."""
    lacking = [name for name, item in stored.items() if key not in _results_of(item)]
    if lacking:
        return f"there is none of {', '.join(lacking)}"
    estimator = next(n for n, module in evidence.ESTIMATORS.items() if key in module.LABELS)
    budgets = [item.result.evidence.about[estimator].get("budget") for item in stored.values()]
    same = all(budget == budgets[0] for budget in budgets)
    return None if same else "the runs spent unlike budgets on it"


def _results_of(stored: Stored) -> list[str]:
    """Results of estimators on the examples of the evaluation; what is L_K again is left out."""
    rows = [key for key, row in stored.result.estimates.items() if row.do_not_trust is not None]
    return [key for key in rows if key != _SAME_AS_TOP_BOUND]


def settings(
    parts: Sequence[Setting], stored: Mapping[str, Stored], shared: Measured
) -> list[Setting]:
    """The settings with those results for their values, and L_K of the same examples."""
    names = (shared.top, *shared.names)

    def estimates(run):
        arrays = stored[run.name].evidence_arrays
        values, variances = (
            {n: np.asarray(arrays[f"{n}/{kind}"], np.float64) for n in names}
            for kind in ("value", "variance")
        )
        return Estimates(values, variances)

    return [part.measured_by(estimates) for part in parts]


def table(
    parts: Sequence[Setting], baseline: Setting, stored: Mapping[str, Stored], shared: Measured
) -> html_page.Table:
    """L_K and every result, and paired differences, nats, a row for each setting.

    In brackets what Holm's correction, over all differences of the table, leaves unclaimed.
    "flagged" is the share of examples whose error is not to be believed, mean over runs.
    """
    shown = [shared.top, *shared.names]
    titles = [report.bound_title(shared.top), *shared.names]
    flagged = [f"{name} flagged" for name in shared.names]
    headings = ["setting", *titles, *flagged, *(f"Δ {title}" for title in titles)]
    judged = comparison.judge(parts, baseline, shown)
    rows = []
    for part in parts:
        cells = [part.name, *(report.number(comparison.estimate(part, name)) for name in shown)]
        cells += [f"{_flagged(part, stored, name):.0%}" for name in shared.names]
        if part is baseline:
            cells += ["baseline"] * len(shown)
        else:
            cells += [report.bracketed(judged[part.name, name]) for name in shown]
        rows.append(html_page.Row("", cells))
    examples = f"first {shared.num_examples:,} examples"
    title = f"log p(x) by other estimators, {examples}, in brackets: not claimed"
    return html_page.Table(headings, rows, title)


def _flagged(part: Setting, stored: Mapping[str, Stored], name: str) -> float:
    rows = [stored[run.name].result.estimates[name] for run in part.runs]
    return float(np.mean([row.do_not_trust for row in rows]))


def of_inference(parts: Sequence[Setting], baseline: Setting, shared: Measured) -> list[str]:
    """Where L_K and the most trustworthy result say unlike things of a setting, a sentence.

    With e_i the result, l_i the L_K of example i and a prime for the baseline, what L_K at this K
    owes to q(z|x) is mean_i [(e_i - l_i) - (e'_i - l'_i)], nats, paired over examples. Sentences
    are on those differences that Holm's correction over the settings leaves claimed.
    """
    judge = next((name for name in evidence.by_trust() if name in shared.names), None)
    if judge is None:
        return []
    with_missed = lambda run: _and_missed(run, judge, shared.top)  # noqa: E731
    differences = [part.measured_by(with_missed) for part in parts]
    own = differences[[part is baseline for part in parts].index(True)]
    judged = comparison.judge(differences, own, [_MISSED])
    lines = []
    for part in differences:
        if part is own or judged[part.name, _MISSED].verdict_holm not in ("higher", "lower"):
            continue
        of_top, of_judge, missed = (
            report.number(comparison.difference(part, own, name), "+")
            for name in (shared.top, judge, _MISSED)
        )
        lines.append(
            f"{part.name} against {own.name}, first {shared.num_examples:,} examples: "
            f"{report.bound_title(shared.top)} {of_top}, {judge} {of_judge}. What lies between, "
            f"{missed}, is owed to q(z|x) at this K, not to the model, as far as {judge} tells "
            "log p(x)."
        )
    return lines


def _and_missed(run: Run, name: str, top: str) -> Estimates:
    """The estimates of a run and, beside them, what L_K misses of the result `name`."""
    with np.errstate(invalid="ignore"):
        missed = comparison.without_variances({_MISSED: run.values[name] - run.values[top]})
    return Estimates({**run.values, **missed.values}, {**run.variances, **missed.variances})
