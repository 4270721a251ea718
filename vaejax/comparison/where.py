"""Where two settings differ: by class, by image, and whether it is the model or the inference.

Pure functions; `run` reads what they need.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vaejax.comparison import report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Difference, Estimates, Judged, Setting
from vaejax.runs.files import Stored
from vaejax.storage import html_page

NUM_IMAGES = 16
_MOST_CLASSES = 100


class Extremes(NamedTuple):
    """The images on which a setting is worst, and best, beside the baseline.

    Attributes:
      worst, best: which examples, the most extreme first.
      ours, theirs: the bound of every example, mean over seeds, nats.
    """

    worst: Int[np.ndarray, "M"]
    best: Int[np.ndarray, "M"]
    ours: Float[np.ndarray, "N"]
    theirs: Float[np.ndarray, "N"]


def _only(setting: Setting, rows: np.ndarray) -> Setting:
    """The setting on some of its examples."""
    part = lambda arrays: {name: array[rows] for name, array in arrays.items()}  # noqa: E731
    runs = [
        run._replace(values=part(run.values), variances=part(run.variances)) for run in setting.runs
    ]
    return setting._replace(runs=runs)


def by_class(
    parts: Sequence[Setting], baseline: Setting, name: str, labels: Sequence[str]
) -> html_page.Table | None:
    """Differences of the bound `name` to the baseline, a row for each class; None: too many.

    Paired over the images of the class, in brackets what Holm's correction, over all of the table
    together, leaves unclaimed.
    """
    labels = np.asarray(labels)
    classes = sorted({*labels.tolist()}, key=lambda text: (len(text), text))
    if len(classes) > _MOST_CLASSES:
        return None
    others = [setting for setting in parts if setting is not baseline]
    deltas: dict[tuple[str, str], Difference] = {}
    for label in classes:
        rows = np.flatnonzero(labels == label)
        for setting in others:
            pair = (_only(setting, rows), _only(baseline, rows))
            deltas[label, setting.name] = comparison.difference(*pair, name)
    corrected = comparison.holm([delta.p_value for delta in deltas.values()])
    judged = {k: Judged(d, p) for (k, d), p in zip(deltas.items(), corrected, strict=True)}
    found = []
    for label in classes:
        cells = [report.bracketed(judged[label, setting.name]) for setting in others]
        found.append(html_page.Row("", [label, str(int(np.sum(labels == label))), *cells]))
    headings = ["class", "images", *(f"Δ {setting.name}" for setting in others)]
    title = f"{report.bound_title(name)} by class: differences to {baseline.name}, (not claimed)"
    return html_page.Table(headings, found, title)


def extremes(setting: Setting, baseline: Setting, name: str) -> Extremes:
    """The 16 images (or all) with the lowest, and with the highest, difference of `name`."""
    ours, theirs = comparison.seed_mean(setting, name), comparison.seed_mean(baseline, name)
    with np.errstate(invalid="ignore"):
        delta = ours - theirs
    order = np.argsort(delta, kind="stable")
    order = order[np.isfinite(delta[order])]
    return Extremes(order[:NUM_IMAGES], order[::-1][:NUM_IMAGES], ours, theirs)


def model_or_inference(
    setting: Setting, baseline: Setting, evidence: Mapping[str, Stored]
) -> str | None:
    """Whether a difference of ELBOs is one of log p(x), the model's, or of the inference gaps.

    ELBO = log p(x) - gap, so the differences add up. None where a run has no gaps, or they are of
    other examples or seeds.

    Args:
      setting, baseline: of the comparison.
      evidence: the files of each of their runs, by name.
    """
    both = [run.name for part in (setting, baseline) for run in part.runs]
    stored = [evidence[name] for name in both]
    if any(item.result.gaps is None for item in stored):
        return None
    if len({item.result.evidence.protocol for item in stored}) > 1:
        return None
    gaps = lambda run: _gaps(evidence[run.name])  # noqa: E731
    pair = [part.measured_by(gaps) for part in (setting, baseline)]
    elbo, model, gap = (
        report.number(comparison.difference(*pair, name), "+")
        for name in ("elbo", "log_marginal", "gap")
    )
    count = stored[0].result.evidence.protocol.num_examples
    sources = {item.result.gaps.log_marginal_from for item in stored}
    return (
        f"{setting.name} against {baseline.name}, first {count:,} examples: ELBO {elbo} = log p(x) "
        f"{model} (the model) minus inference gap {gap} (the inference); log p(x) from "
        f"{' and '.join(sorted(sources))}."
    )


def _gaps(stored: Stored) -> Estimates:
    """log p(x), the ELBO and their gap of one run."""
    source = stored.result.gaps.log_marginal_from
    log_marginal = np.asarray(stored.evidence_arrays[f"{source}/value"], np.float64)
    elbo = np.asarray(stored.evidence_arrays["gaps/elbo"], np.float64)[:, 0]
    return comparison.without_variances(
        {"log_marginal": log_marginal, "elbo": elbo, "gap": log_marginal - elbo}
    )
