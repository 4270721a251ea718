"""What a search tries next: pure functions of the space, the trials so far and a seed.

Nothing is kept between two calls, so a search that was killed proposes the same again.
"""

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaejax.errors import UserError
from vaejax.sweeps import spaces
from vaejax.sweeps.members import Overrides
from vaejax.sweeps.spaces import Choice, Space


class Told(NamedTuple):
    """What a sampler knows of a trial.

    Attributes:
      params: value by path.
      score: validation L_K, nats, to be made large; NaN: it failed.
      epochs: for how many it was trained.
      pruned: whether it was stopped there, because others were better.
    """

    params: Overrides
    score: float
    epochs: int
    pruned: bool


def random(
    space: Space, told: Sequence[Told], count: int, *, seed: int, first: int
) -> list[Overrides]:
    """`count` independent draws, numbers `first`, `first` + 1, .. of the sequence of `seed`.

    What is `told` changes nothing: the baseline of the same budget (Bergstra and Bengio 2012).
    """
    del told
    found = []
    for index in range(first, first + count):
        generator = np.random.default_rng([seed, index])
        found.append({path: _draw(dimension, generator) for path, dimension in space.items()})
    return [spaces.rounded(space, params) for params in found]


def _draw(dimension: spaces.Dimension, generator: np.random.Generator) -> float:
    if isinstance(dimension, Choice):
        return int(generator.integers(len(dimension.values)))
    if dimension.log:
        return math.exp(generator.uniform(math.log(dimension.low), math.log(dimension.high)))
    return float(generator.uniform(dimension.low, dimension.high))


def optuna(
    space: Space, told: Sequence[Told], count: int, *, seed: int, first: int
) -> list[Overrides]:
    """`count` proposals of optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    All keys are modelled together; proposals of one batch, which have no score yet, count as
    bad ones, so that they keep apart. The first ten trials are random. A trial that was pruned
    counts as worse than all that were not, one that failed as worse than all.

    Raises:
      UserError: optuna is not installed.
    """
    library = load_optuna()
    distributions = {path: _distribution(library, d) for path, d in space.items()}
    entropy = np.random.SeedSequence([seed, first]).generate_state(1)[0]
    with warnings.catch_warnings(action="ignore"):  # optuna calls two options experimental
        sampler = library.samplers.TPESampler(
            seed=int(entropy), multivariate=True, constant_liar=True
        )
    study = library.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_trial(library, space, distributions, trial) for trial in told])
    asked = [study.ask(distributions).params for _ in range(count)]
    return [spaces.rounded(space, params) for params in asked]


def load_optuna() -> Any:
    """The `optuna` module, silent. Raises UserError where it is not installed."""
    try:
        library = importlib.import_module("optuna")
    except ImportError as error:
        raise UserError(
            "--search: optuna is not installed; pip install -e '.[optuna]', or use --search=random"
        ) from error
    library.logging.set_verbosity(library.logging.ERROR)
    return library


def _distribution(library: Any, dimension: spaces.Dimension) -> Any:
    if isinstance(dimension, Choice):
        return library.distributions.CategoricalDistribution(range(len(dimension.values)))
    low, high = float(dimension.low), float(dimension.high)
    return library.distributions.FloatDistribution(low, high, log=dimension.log)


def _trial(library: Any, space: Space, distributions: dict[str, Any], told: Told) -> Any:
    params = {
        path: list(d.values).index(told.params[path])
        if isinstance(d, Choice)
        else told.params[path]
        for path, d in space.items()
    }
    states, failed = library.trial.TrialState, math.isnan(told.score)
    known = {"params": params, "distributions": distributions}
    if not failed and not told.pruned:
        return library.trial.create_trial(state=states.COMPLETE, value=told.score, **known)
    steps = {} if failed else {told.epochs: told.score}
    return library.trial.create_trial(state=states.PRUNED, intermediate_values=steps, **known)


SAMPLERS = {"optuna": optuna, "random": random}
