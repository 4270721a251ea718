"""Trains and evaluates on meshes of four CPU devices: `mesh_child.py FOLDER`, JSON to stdout."""

import dataclasses
import functools
import json
import pathlib
import sys

import jax
import numpy as np
from conftest import small_config
from rich.console import Console

from vaejax import keys, meshes
from vaejax.evaluation import mapping, per_example
from vaejax.runs import evaluate
from vaejax.runs import subject as subject_lib
from vaejax.training import loop
from vaejax.training.standing import Run, Surroundings

SMALL = {
    "model__latent_dims": (4,),
    "model__encoder": "mlp(hidden_dims=(16,))",
    "dataset__name": "digits",
    "training__batch_size": 48,
    "training__num_epochs": 2,
    "training__validation_samples": 5,
}


def _train(folder, configs, mesh, *, stop_after=None):
    calls = []
    around = Surroundings(
        Console(quiet=True),
        lambda: stop_after is not None and len(calls) >= stop_after,
        lambda *row: calls.append(row),
        layout=meshes.parse(mesh),
    )
    runs = [Run(str(i), folder / str(i), config) for i, config in enumerate(configs)]
    outcomes = loop.train_together(runs, around)
    assert all(outcome.error is None for outcome in outcomes)
    return [jax.tree.map(np.asarray, outcome.state.params) for outcome in outcomes]


def _distance(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def _evaluation(folder):
    found = evaluate.evaluate(folder, num_samples=50, console=Console(quiet=True))
    return {name: row.value for name, row in found.estimates.items()}


def _on_devices(folder, count):
    """Values of 101 test examples of a run, which no number of devices divides."""
    subject = subject_lib.load(folder, "test", console=Console(quiet=True))
    one = functools.partial(per_example.evaluate, model=subject.model, num_samples=50, chunk_size=7)
    budget = mapping.Budget(rows=7, max_rows=70, work=50)
    over = mapping.make(one, num_examples=101, budget=budget, mesh=meshes.make(1, count))
    key, x = keys.domain(0, "tests/meshes"), subject.held_out.x[:101]
    values = mapping.over_examples(over, subject.params, key, x).weights.values
    return {name: np.asarray(value, float) for name, value in values.items()}


def main(folder):
    config = small_config(**SMALL)
    configs = [dataclasses.replace(config, seed=seed) for seed in range(3)]
    alone = [_train(folder / f"alone{c.seed}", [c], "members:1,data:1")[0] for c in configs]
    found = {"devices": jax.device_count(), "bounds": {}, "params": {}}
    found["bounds"]["1"] = _evaluation(folder / "alone0" / "0")
    values = {count: _on_devices(folder / "alone0" / "0", count) for count in (1, 2, 4)}
    found["evaluations"] = {
        count: {
            name: [float(abs(np.mean(v - values[1][name]))), float(np.ptp(v - values[1][name]))]
            for name, v in own.items()
        }
        for count, own in values.items()
        if count > 1
    }
    for data in (2, 4):
        params = _train(folder / f"data{data}", configs[:1], f"data:{data}")
        found["params"][f"data:{data}"] = _distance(params[0], alone[0])
        found["bounds"][str(data)] = _evaluation(folder / f"data{data}" / "0")
    for mesh in ("members:2,data:2", "members:3", "data:4,members:1"):
        params = _train(folder / mesh.replace(":", ""), configs, mesh)
        found["params"][mesh] = max(map(_distance, params, alone))
    for first, second in (("data:4", "data:1"), ("data:1", "data:4")):
        place = folder / f"moved{first[-1]}"
        _train(place, configs[:1], first, stop_after=1)
        params = _train(place, configs[:1], second)
        found["params"][f"{first} then {second}"] = _distance(params[0], alone[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
