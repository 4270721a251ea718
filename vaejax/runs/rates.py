"""Rate and distortion of a run, and the parts of its rate: rates.json, rates.npz, a figure."""

import pathlib

import numpy as np
from rich.console import Console

from vaejax import hosts, keys
from vaejax.errors import UserError
from vaejax.evaluation import figures as plots
from vaejax.evaluation import mapping, rates, results, surgery
from vaejax.evaluation.rates import Part
from vaejax.evaluation.surgery import Rates
from vaejax.models import latents
from vaejax.runs.files import Stored
from vaejax.runs.settings import Settings
from vaejax.runs.subject import Subject
from vaejax.storage import arrays as arrays_lib
from vaejax.storage import files, logging
from vaejax.training import runs


def path_of(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """The rates.json of a split."""
    return workdir / ("rates.json" if split == "test" else f"rates-{split}.json")


def read(workdir: pathlib.Path, split: str) -> Rates:
    """The rates of the run in `workdir`.

    Raises:
      UserError: there are none, or the files are broken or do not belong together.
    """
    path = path_of(workdir, split)
    again = f"run python scripts/evaluate.py --workdir={workdir} --rates"
    if not path.exists():
        raise UserError(f"{path} is missing; {again}")
    value, _ = arrays_lib.read_tied(path, schema=dict, advice=again)
    try:
        return results.from_json(value, Rates)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check(subject: Subject, settings: Settings) -> None:
    """Tries the files and the request, before anything is computed. Raises UserError."""
    num_examples(subject, settings)
    path = path_of(subject.workdir, subject.split)
    names = [path.name, path.with_suffix(".npz").name, "figures/rates.png"]
    hosts.from_first(lambda: files.require_writable(subject.workdir, names))


def num_examples(subject: Subject, settings: Settings) -> int:
    """How many examples are used. Raises UserError: more than there are, or too costly."""
    available, wanted = len(subject.held_out.x), settings.rates.num_examples
    if available < 2 or (wanted is not None and wanted > available):
        raise UserError(
            f"rates.num_examples: must be in 2..{available}, the split's size, got "
            f"{wanted or available}"
        )
    count = wanted or available
    for problem in rates.problems(
        subject.model, num_examples=count, num_samples=settings.rates.num_samples
    ):
        raise UserError(problem)
    return count


def measure(subject: Subject, stored: Stored, settings: Settings, *, console: Console) -> Rates:
    """The parts of the rate; writes rates.json, rates.npz and figures/rates.png.

    Rate and distortion themselves are those of the evaluation, from its K samples or in closed
    form. Raises UserError on a full disk, or where `num_examples` does.
    """
    count = num_examples(subject, settings)
    exact = "value/kl_closed_form" in stored.arrays
    rate = _part(stored, "kl_closed_form" if exact else "kl", count)
    minus = _part(stored, "reconstruction", count)
    distortion = Part(-minus.values, minus.variances)
    found = rates.surgery(_draws(subject, settings, count, console), rate)
    parts = surgery.parts_of(rate, distortion, found)
    units = _unit_rates(subject, settings, count)
    budget = settings.rates.num_samples
    result = surgery.result(
        stored.result.protocol, parts, units, num_samples=budget, is_exact=exact
    )
    arrays = {f"value/{name}": part.values for name, part in parts.items()}
    arrays |= {f"mc_variance/{name}": part.variances for name, part in parts.items()}
    arrays |= {} if units is None else {"unit_rate": units}
    path = path_of(subject.workdir, subject.split)
    files.write_tied(path, results.to_json(result), arrays)
    if hosts.is_first():
        runs.write_figure(subject.workdir, "rates", plots.rates(result))
    return result


def _part(stored: Stored, name: str, count: int) -> Part:
    both = (stored.arrays[f"{kind}/{name}"][:count] for kind in ("value", "mc_variance"))
    return Part(*(np.asarray(array, np.float64) for array in both))


def _draws(subject: Subject, settings: Settings, count: int, console: Console) -> rates.Draws:
    key = keys.domain(settings.evaluation.seed, f"rates/{subject.split}")
    with logging.progress(console, "rates", done=0, total=count, unit="examples") as show:
        return rates.draws(
            subject.params,
            key,
            subject.held_out.x[:count],
            model=subject.model,
            num_samples=settings.rates.num_samples,
            chunk_size=settings.evaluation.chunk_size,
            done=lambda number: show(number, ""),
        )


def _unit_rates(subject: Subject, settings: Settings, count: int) -> np.ndarray | None:
    """KL of each unit in each example, [N, U], where the KL is a sum over units."""
    model, x = subject.model, subject.held_out.x[:count]
    if model.kl_groups is None:
        return None
    chunk_size = settings.evaluation.chunk_size
    units = rates.make_unit_rates(model, num_examples=count, chunk_size=chunk_size)
    found = mapping.over_examples(units, subject.params, keys.domain(0, "rates/units"), x)
    size, _ = latents.unraveller(subject.params, model=model)
    return found if found.shape[1] == size else None
