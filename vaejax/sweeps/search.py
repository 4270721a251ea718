"""A search: propose a batch of trials, train it as one program, learn from it, propose again.

search.json holds what was proposed, and nothing else; scores are those of the runs. Where a
search stands follows from the two, so one that was killed goes on as if it had not been.
"""

import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from vaejax.config import Config
from vaejax.errors import UserError, shown
from vaejax.storage import json_files
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps import launch, results, samplers, spaces
from vaejax.sweeps import members as sweeps
from vaejax.sweeps.results import Result
from vaejax.sweeps.spaces import Space

SEARCH = "search.json"
KEPT = 3  # one of three goes on to the next rung


class Request(NamedTuple):
    """What is asked for.

    Attributes:
      sampler: a name of `samplers.SAMPLERS`.
      trials: proposals in all.
      batch: of them, how many are trained together.
      rungs: 1: every trial is trained to its end; R: at 1 / 3^(R-1), .. 1/3 of its epochs the
        best third of a batch goes on (Jamieson and Talwalkar 2016).
      seed: of the proposals.
      seeds: each trial is trained with seeds 0..N-1, and judged by the mean; None: alone.
    """

    sampler: str
    trials: int
    batch: int = 8
    rungs: int = 1
    seed: int = 0
    seeds: int | None = None


class Trial(NamedTuple):
    """A proposal.

    Attributes:
      name: of its run.
      params: value by path.
      epochs: up to which it is trained, as far as is decided.
    """

    name: str
    params: sweeps.Overrides
    epochs: int


Batches = list[list[Trial]]
Scores = Mapping[str, float]
"""Setting -> validation L_K, mean over seeds; absent or NaN: it failed."""


def search(
    config: Config,
    space: Space,
    request: Request,
    task: launch.Task,
    *,
    console: Console,
    launcher: str = "local",
    address: str | None = None,
) -> list[Result]:
    """Searches `space` around `config`; returns the results of all runs, as `launch.sweep` does.

    Trials are chosen by validation L_K alone. The workdir is that of a sweep, with its tables,
    and search.json beside them.

    Raises:
      UserError: a bad space or request, a workdir of another search, what a sweep raises, or a
        run that failed for another reason than that it diverged.
      Stopped: SIGTERM or SIGINT came first; what was done is saved.
    """
    spaces.check(config, space)
    if request.sampler == "optuna":
        samplers.load_optuna()
    rungs, path = rungs_of(config, request), task.workdir / SEARCH
    settings = _settings(space, request, rungs)
    batches, found = _read(path, settings, request, space), []
    run = functools.partial(
        launch.sweep, config, task=task, console=console, launcher=launcher, address=address
    )
    while True:
        if batches:
            items = _items(batches, request, rungs)
            launch.check(sweeps.members(config, items), task.workdir)
            if (values := _json(settings, batches)) != (path.is_file() and _content(path)):
                workdir_lib.write_json(path, values)
            found = _whole(run(items), task.workdir)
        following = advanced(batches, scores(found), space, request, rungs)
        if following == batches:
            return found
        batches = following
        console.print(_progress(batches, request, rungs), soft_wrap=True)


def _whole(found: list[Result], workdir: pathlib.Path) -> list[Result]:
    """`found`, where nothing failed but runs that diverged, from which a search learns as well.

    Raises:
      UserError: anything else failed (memory, disk, a worker), or every run diverged.
    """
    failed = [r for r in found if r.error is not None]
    broken = [r for r in failed if not (workdir / r.member.name / launch.FAILED).is_file()]
    if broken or len(failed) == len(found):
        raise UserError(launch.failure_line(broken or found))
    return found


def rungs_of(config: Config, request: Request) -> list[int]:
    """The epochs at which the trials of a batch are compared, the last ones those of the config.

    Raises:
      UserError: too few epochs for so many rungs, or a schedule that depends on their number.
    """
    epochs, schedule = config.training.num_epochs, config.optimizer.schedule
    if request.rungs > 1 and schedule != "constant":
        raise UserError(
            f"--rungs: a trial is trained further, so its rate must not depend on the number of "
            f"epochs; needs config.optimizer.schedule='constant', got {shown(schedule)}"
        )
    found = [round(epochs / KEPT**power) for power in reversed(range(request.rungs))]
    if request.rungs > 1 and found[0] < 1:
        raise UserError(
            f"--rungs: {request.rungs} rungs need at least {KEPT ** (request.rungs - 1)} epochs, "
            f"got config.training.num_epochs={epochs}"
        )
    return found


def advanced(
    batches: Batches, known: Scores, space: Space, request: Request, rungs: Sequence[int]
) -> Batches:
    """What to train next, given the scores of all that was trained; the same: all is done.

    The best third of the last batch goes on to the next rung; where there is none to go on, a
    new batch is proposed.
    """
    if batches and (best := _to_go_on(batches, known, rungs)):
        raised = [best.get(trial.name, trial) for trial in batches[-1]]
        return [*batches[:-1], raised]
    new = _proposed(batches, known, space, request, rungs)
    return [*batches, new] if new else batches


def _to_go_on(batches: Batches, known: Scores, rungs: Sequence[int]) -> dict[str, Trial]:
    """By name, those of the last batch that are trained further, with their new epochs."""
    trained = {trial.name for trial in _unique(batches)}
    top = max(trial.epochs for trial in batches[-1])
    there = [t for t in batches[-1] if t.epochs == top and t.name in trained]
    if top == rungs[-1]:
        return {}
    live = [t for t in there if math.isfinite(known.get(t.name, math.nan))]
    best = sorted(live, key=lambda trial: known[trial.name], reverse=True)
    higher = rungs[rungs.index(top) + 1]
    return {t.name: t._replace(epochs=higher) for t in best[: math.ceil(len(there) / KEPT)]}


def _proposed(
    batches: Batches, known: Scores, space: Space, request: Request, rungs: Sequence[int]
) -> list[Trial]:
    """The next batch of new trials, empty where there were enough."""
    first = sum(map(len, batches))
    count = min(request.batch, request.trials - first)
    if count < 1:
        return []
    told = [
        samplers.Told(t.params, known.get(t.name, math.nan), t.epochs, t.epochs < rungs[-1])
        for t in _unique(batches)
    ]
    propose = samplers.SAMPLERS[request.sampler]
    found = propose(space, told, count, seed=request.seed, first=first)
    return [Trial(f"trial-{first + i:03d}", params, rungs[0]) for i, params in enumerate(found)]


def scores(found: Sequence[Result]) -> dict[str, float]:
    """Validation L_K of every setting of which no seed failed."""
    if not found:
        return {}
    name = results.log_marginal_name(found[0].member.config.evaluation.num_samples)
    whole = [row for row in results.settings(found) if not row.failed]
    return {row.name: row.estimates["validation"][name].value for row in whole}


def _unique(batches: Batches) -> list[Trial]:
    """The trials that are trained: one that repeats an earlier one is not trained again."""
    found: dict[str, Trial] = {}
    for trial in (trial for batch in batches for trial in batch):
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(found.values())


def _items(batches: Batches, request: Request, rungs: Sequence[int]) -> list[sweeps.Overrides]:
    """The trials as the members of a sweep."""
    items = []
    for trial in _unique(batches):
        epochs = {"training.num_epochs": trial.epochs} if len(rungs) > 1 else {}
        items.append({sweeps.NAME: trial.name, **trial.params, **epochs})
    return items if request.seeds is None else sweeps.with_seeds(items, request.seeds)


def _progress(batches: Batches, request: Request, rungs: Sequence[int]) -> str:
    last, total = batches[-1], sum(map(len, batches))
    line = f"trials {total - len(last) + 1}..{total} of {request.trials}"
    top = max(trial.epochs for trial in last)
    if len(rungs) == 1:
        return line
    return f"{line}: {sum(trial.epochs == top for trial in last)} of them to epoch {top}"


def _settings(space: Space, request: Request, rungs: Sequence[int]) -> dict[str, Any]:
    """What must be the same for a search to go on."""
    return {
        "search": request.sampler,
        "search_seed": request.seed,
        "seeds": request.seeds,
        "epochs": list(rungs),
        "space": spaces.plain(space),
    }


def _json(settings: dict[str, Any], batches: Batches) -> dict[str, Any]:
    return {**settings, "batches": [[trial._asdict() for trial in batch] for batch in batches]}


def _content(path: pathlib.Path) -> dict[str, Any]:
    return json_files.read_json(path, json_files.SEARCH)


def _read(path: pathlib.Path, settings: dict[str, Any], request: Request, space: Space) -> Batches:
    """The batches of an earlier launch.

    Raises:
      UserError: it was of another search, it had more trials, or the file was changed by hand.
    """
    if not path.is_file():
        return []
    values = _content(path)
    other = [
        f"{k}: {shown(v)} != {shown(values[k])}" for k, v in settings.items() if v != values[k]
    ]
    if other:
        raise UserError(
            f"{path.parent} holds another search (given != there): {'; '.join(other)}; choose "
            f"another workdir or the same values"
        )
    batches = [[Trial(**trial) for trial in batch] for batch in values["batches"]]
    trials = [trial for batch in batches for trial in batch]
    legal = [t.epochs in settings["epochs"] and spaces.holds(space, t.params) for t in trials]
    if not all(batches) or not all(legal):
        raise UserError(f"{path}: holds trials that no search proposed; choose another workdir")
    if (total := len(trials)) > request.trials:
        raise UserError(f"--trials: {path.parent} has {total} already, got {request.trials}")
    return batches
