"""Runs that differ in numbers alone, trained as one program over a leading member axis.

Each member keeps the folder, files and results of a run of its own. A member that is done,
or has failed, is frozen: the others cannot change it, nor it them.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float
from rich.console import Console

from vaejax import config as config_lib
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.evaluation import examples as evaluation
from vaejax.storage import checkpoints, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps.members import Member
from vaejax.training import loop as train_run
from vaejax.training import runs
from vaejax.training import step as training
from vaejax.training.step import Plan, TrainState
from vaejax.types import Model

FAILED = "failed.json"
_AXIS = "members"

Report = Callable[[str, int, str], None]
"""`(member, examples done, text)`: what a group says of its progress."""


class Group(NamedTuple):
    """Members of one static config and what they share.

    Attributes:
      members: in the order of the leading axis.
      workdir: folder of the sweep.
      console: where warnings go.
      model, plan, data: as in a run of its own.
      mesh: the devices that the members are spread over.
    """

    members: Sequence[Member]
    workdir: pathlib.Path
    console: Console
    model: Model
    plan: Plan
    data: splits.TrainingData
    mesh: Mesh

    @property
    def rows(self) -> int:
        """Length of the leading axis: the members, padded to a multiple of the devices."""
        return self.mesh.size * math.ceil(len(self.members) / self.mesh.size)


def use_all_cores() -> None:
    """One XLA device per CPU core, so that members run side by side; first thing or never."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def make_group(members: Sequence[Member], workdir: pathlib.Path, *, console: Console) -> Group:
    """The group of `members`, which share a static config. Raises UserError on bad data."""
    config = members[0].config
    data = splits.training_data(config)
    devices = jax.devices()[: len(members)]
    return Group(
        members,
        workdir,
        console,
        runs.build_model(config, data.spec),
        training.make_plan(config, len(data.images)),
        data,
        Mesh(np.asarray(devices), (_AXIS,)),
    )


def session(group: Group, index: int) -> train_run.Session:
    """Member `index` as a run of its own."""
    member = group.members[index]
    return train_run.Session(
        member.config,
        group.workdir / member.name,
        group.console,
        group.model,
        group.plan,
        group.data,
    )


def _sharded(group: Group) -> NamedSharding:
    return NamedSharding(group.mesh, PartitionSpec(_AXIS))


def spread(group: Group, values: np.ndarray) -> Array:
    """A host array with the leading member axis, spread over the devices."""
    return jax.device_put(values, _sharded(group))


def stack(group: Group, rows: Sequence[Any]) -> Any:
    """Trees of single members stacked on the devices; the padding repeats the first."""
    rows = [*rows, *[rows[0]] * (group.rows - len(rows))]
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *rows), _sharded(group))


def training_images(group: Group) -> Array:
    """The training images, on every device."""
    return jax.device_put(group.data.images, NamedSharding(group.mesh, PartitionSpec()))


def member_numbers(group: Group) -> dict[str, Array]:
    """The traced numbers of all members, [M] each."""
    rows = [config_lib.traced_numbers(member.config) for member in group.members]
    kind = {int: np.int32, float: np.float32}
    return stack(group, [{k: kind[type(v)](v) for k, v in row.items()} for row in rows])


def _over_members(group: Group, function: Callable, *, shared: int | None = None) -> Callable:
    """`function` of one member over the leading axis, spread over the devices.

    `shared` is the position of the one argument that is the same for all members.
    """

    def mapped(*arguments):
        axes = tuple(None if i == shared else 0 for i in range(len(arguments)))
        specs = tuple(PartitionSpec() if axis is None else PartitionSpec(_AXIS) for axis in axes)
        return jax.shard_map(
            jax.vmap(function, axes),
            mesh=group.mesh,
            in_specs=specs,
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,
        )(*arguments)

    return mapped


def compile_program(group: Group, numbers: dict[str, Array], images: Array):
    """`training.train_call` for all members: (numbers, states, images, active) -> as there.

    A member that is not active keeps its state.
    """
    config = group.members[0].config

    def call(numbers, state, images, active):
        new, metrics = training.train_call(
            state,
            images,
            config=config_lib.with_numbers(config, numbers),
            model=group.model,
            plan=group.plan,
        )
        return jax.tree.map(lambda n, o: jnp.where(active, n, o), new, state), metrics

    program = jax.jit(_over_members(group, call, shared=2), donate_argnums=1)
    states = jax.eval_shape(lambda numbers: _initial_states(group, numbers), numbers)
    states = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharded(group)), states
    )
    active = jax.ShapeDtypeStruct((group.rows,), bool, sharding=_sharded(group))
    return program.lower(numbers, states, images, active).compile()


def _initial_states(group: Group, numbers: dict[str, Array]) -> TrainState:
    config = group.members[0].config

    def init(numbers):
        return training.init_state(config_lib.with_numbers(config, numbers), model=group.model)

    return _over_members(group, init)(numbers)


def first_states(group: Group, numbers: dict[str, Array]) -> list[TrainState]:
    """Of each member the newest readable checkpoint, else the initial state; on the host."""
    initial = jax.device_get(jax.jit(lambda numbers: _initial_states(group, numbers))(numbers))
    start = runs.start_params(group.members[0].config, group.data.spec, console=group.console)
    states = []
    for index, member in enumerate(group.members):
        fresh = training.started_from(member_state(initial, index), start)
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), fresh)
        folder = group.workdir / member.name
        state, damaged = runs.restore(folder, like, console=group.console)
        state = fresh if state is None else jax.device_get(state)
        if damaged:
            checkpoints.discard_after(folder / "checkpoints", int(state.step))
        states.append(state)
    return states


def member_state(states: TrainState, index: int) -> TrainState:
    """One member of states that lie on the host."""
    return jax.tree.map(lambda leaf: leaf[index], states)


def make_validator(group: Group) -> Callable[[TrainState], dict[str, Float[np.ndarray, "M"]]]:
    """From all states to the mean validation ELBO and L_K of each member (or {})."""
    held_out, config = group.data.validation, group.members[0].config
    if held_out is None:
        return lambda states: {}
    samples = config.training.validation_samples
    single = evaluation.make_evaluator(
        evaluation.validation_bounds,
        model=group.model,
        num_examples=len(held_out.x),
        num_samples=samples,
        chunk_size=max(samples, config.evaluation.chunk_size // group.rows),
    )
    # Members follow examples in the result, so that padding is cut off as in a single run.
    everyone = jax.vmap(single.run, (0, None, None, None), out_axes=1)
    evaluator = single._replace(run=everyone)
    key = jax.random.key(config.evaluation.seed)
    whole = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), PartitionSpec())

    def validate(states: TrainState) -> dict[str, np.ndarray]:
        params = jax.device_put(training.averaged_params(states), whole)
        parts = list(evaluation.evaluate_batches(evaluator, params, key, held_out.x))
        values = evaluation.concatenate(parts)
        return {f"validation/{k}": v.mean(axis=0, dtype=np.float64) for k, v in values.items()}

    return validate


def make_best_updater(group: Group) -> Callable[..., TrainState]:
    """`training.update_best` of the members that are `due`: (states, values, due) -> states."""

    def update(state: TrainState, value: Float[Array, ""], due: Bool[Array, ""]) -> TrainState:
        new = training.update_best(state, value)
        return jax.tree.map(lambda n, o: jnp.where(due, n, o), new, state)

    return jax.jit(_over_members(group, update), donate_argnums=0)


def record_failure(folder: pathlib.Path, *, step: int, error: UserError) -> None:
    """Notes that the run in `folder` diverged: it would again, so it is not tried again."""
    advice = f"remove {FAILED} to train it again"
    workdir_lib.write_json(folder / FAILED, {"step": step, "error": str(error), "retry": advice})


def seconds_spent(folder: pathlib.Path, step: int) -> float:
    """Training time of the run in `folder` up to `step`."""
    rows = logging.read_metrics(folder / workdir_lib.METRICS)
    return max([row.get("seconds", 0.0) for row in rows if row["step"] <= step], default=0.0)
