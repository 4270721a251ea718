"""What must agree before runs may be compared, and which runs make one setting.

Pure functions of what `read` gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vaejax import config as config_lib
from vaejax.comparison.statistics import Run, Setting
from vaejax.errors import UserError
from vaejax.evaluation import seeds

PROTOCOL = (
    "dataset",
    "split",
    "num_examples",
    "binarization",
    "data_sha256",
    "values",
    "num_samples",
    "seed",
    "dtype",
    "precision",
    "finished",
)
_ABSENT = "not stated"


def agreed(run: Run, field: str) -> Any:
    """What a run says of a protocol field.

    Evaluations that do not say whether their run was finished are of finished ones. Of an
    unfinished run its step counts as well: two of them agree at one step alone.
    """
    protocol = run.result["protocol"]
    if field != "finished":
        return protocol.get(field, _ABSENT)
    if protocol.get("finished", True):
        return True
    return f"False (step {protocol.get('checkpoint_step', _ABSENT)})"


def mismatches(runs: Sequence[Run]) -> list[str]:
    """One sentence for each protocol field in which the runs do not agree with the first."""
    first, found = runs[0], []
    for field in PROTOCOL:
        ours = agreed(first, field)
        for run in runs[1:]:
            theirs = agreed(run, field)
            if ours != theirs:
                found.append(f"{field} is {ours!r} in {first.name} and {theirs!r} in {run.name}")
                break
    return found


def check(runs: Sequence[Run]) -> None:
    """Refuses runs whose differences would mean nothing.

    Raises:
      UserError: naming every protocol field that differs, and between which runs.
    """
    found = mismatches(runs)
    if found:
        raise UserError(
            f"these runs cannot be compared: {'; '.join(found)}; evaluate them alike, or give "
            f"--force to print them side by side without differences"
        )


def groups(parts: Sequence[Setting]) -> list[list[Setting]]:
    """Settings apart by protocol, each group comparable in itself."""
    by_key: dict[str, list[Setting]] = {}
    for setting in parts:
        said = repr([agreed(setting.runs[0], field) for field in PROTOCOL])
        by_key.setdefault(said, []).append(setting)
    return list(by_key.values())


def _trained(run: Run) -> seeds.Trained:
    """A run as `seeds` groups it: by its config, and by the protocol it was evaluated under."""
    protocol = {f"protocol.{field}": agreed(run, field) for field in PROTOCOL}
    return seeds.Trained(run.name, config_lib.identity_of(run.config) | protocol)


def settings(runs: Sequence[Run], failed: Sequence[Mapping[str, Any]] = ()) -> list[Setting]:
    """Runs together that differ in `config.seed` alone, in order of first appearance.

    Args:
      runs: evaluated runs; those of unlike protocols stay apart.
      failed: configs of runs that failed; they count for the settings of the others.
    """
    key = lambda config: seeds.key(config_lib.identity_of(config))  # noqa: E731
    lost = [key(config) for config in failed]
    return [
        Setting(name, [runs[i] for i in indices], lost.count(key(runs[indices[0]].config)))
        for name, indices in seeds.by_seed([_trained(run) for run in runs])
    ]


def check_distinct(runs: Sequence[Run]) -> None:
    """Refuses one run that is there twice under one protocol.

    Raises:
      UserError: two runs of one setting have one seed, or two runs have the same parameters
        (`params_sha256` of their protocols); both are named.
    """
    repeated = seeds.repeated_seed([_trained(run) for run in runs])
    if repeated:
        first, second, seed = repeated
        raise UserError(
            f"{first} and {second} have one config and one seed ({seed}): a copy counts as no "
            f"second run; leave one of them out"
        )
    seen: dict[str, str] = {}
    for run in runs:
        digest = run.result["protocol"].get("params_sha256")
        same = repr([digest, *(agreed(run, field) for field in PROTOCOL)])
        if digest is not None and same in seen:
            raise UserError(
                f"{seen[same]} and {run.name} have the same parameters (params_sha256 "
                f"{str(digest)[:12]}): one run counted twice; leave one of them out"
            )
        seen[same] = run.name
