"""Runs of one static config as one compiled program: a run alone, or several over a leading axis.

Runs whose configs differ in traced numbers alone share a program. Several are `vmap`ped over a
leading axis, which is spread over the members axis of the mesh; one alone has no such axis,
since `vmap` over one costs 15%. Batches are spread over the data axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree

from vaejax import meshes
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.objectives import requirements
from vaejax.training import memory
from vaejax.training import step as training
from vaejax.training.step import Plan, TrainState
from vaejax.types import Model


class Setup(NamedTuple):
    """What the runs of one static config share."""

    config: Config
    data: splits.TrainingData
    model: Model
    plan: Plan


class Group(NamedTuple):
    """Runs trained together.

    Attributes:
      configs: one for each run, in the order of the leading axis.
      setup: what they share.
      mesh: the devices that the runs, and their batches, are spread over.
    """

    configs: tuple[Config, ...]
    setup: Setup
    mesh: Mesh

    @property
    def stacked(self) -> bool:
        """Whether there is a leading axis: there is none for one run."""
        return len(self.configs) > 1

    @property
    def rows(self) -> int:
        """Length of the leading axis: the runs, padded to a multiple of the members axis."""
        if not self.stacked:
            return 1
        size = self.mesh.shape[meshes.MEMBERS]
        return size * math.ceil(len(self.configs) / size)


def set_up(config: Config, *, given: splits.Sources | None = None) -> Setup:
    """Loads the data, builds the model and checks that they, and the objective, fit.

    `given` are splits by name, instead of those of `dataset.name`.

    Raises:
      UserError: unreadable data, a likelihood that does not model them, a gradient that the
        model does not allow, or parameters or samples that do not fit the memory.
    """
    data = splits.training_data(config, given=given)
    model = latent_variable.build(config.model, data.spec)
    _check(config, data, model)
    return Setup(config, data, model, training.make_plan(config, len(data.images), data.kind))


def _check(config: Config, data: splits.TrainingData, model: Model) -> None:
    splits.check_likelihood(config, data.kind, wanted=latent_variable.data_of(config.model))
    objective = config.objective
    for problem in requirements.problems(
        objective.gradient, model, inference_bound=objective.inference_bound
    ):
        raise UserError(f"config.objective.gradient: {problem}")
    like = jax.eval_shape(lambda: training.init_state(config, model=model))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    limit = memory.device_bytes(jax.local_devices()[0])
    memory.check_parameters(needed, limit=limit)
    memory.check_samples(config, limit=limit * jax.device_count())  # a batch may be spread


def make_group(
    configs: Sequence[Config], setup: Setup, layout: meshes.Layout = meshes.BY_ITSELF
) -> Group:
    """The group of `configs`, which share the static config of `setup`.

    Raises:
      UserError: a layout that the devices, or the batch, do not allow.
    """
    mesh = meshes.choose(
        layout, num_members=len(configs), batch_size=setup.config.training.batch_size
    )
    if mesh.shape[meshes.DATA] > 1:
        sharding = meshes.spread(mesh, meshes.DATA)
        setup = setup._replace(plan=setup.plan._replace(batch_sharding=sharding))
    return Group(tuple(configs), setup, mesh)


def _sharding(group: Group, *, shared: bool = False) -> NamedSharding:
    whole = shared or not group.stacked
    return meshes.spread(group.mesh, *(() if whole else (meshes.MEMBERS,)))


def place(group: Group, values: PyTree, *, shared: bool = False) -> PyTree:
    """Host arrays on the devices: spread over the leading axis, or whole on each."""
    return meshes.put(values, _sharding(group, shared=shared))


def stack(group: Group, rows: Sequence[PyTree]) -> PyTree:
    """Trees of single runs together on the devices; the padding repeats the first."""
    if not group.stacked:
        return place(group, jax.tree.map(jnp.asarray, rows[0]))
    rows = [*rows, *[rows[0]] * (group.rows - len(rows))]
    return place(group, jax.tree.map(lambda *leaves: np.stack(leaves), *rows))


def pick(group: Group, tree: PyTree, index: int) -> PyTree:
    """One run of a tree that lies on the host."""
    return jax.tree.map(lambda leaf: leaf[index], tree) if group.stacked else tree


def per_run(group: Group, value: Any) -> np.ndarray:
    """A result as a host array with one entry per row, [M]."""
    return np.reshape(np.asarray(value), (group.rows,))


def place_per_run(group: Group, values: np.ndarray) -> Array:
    """One entry per row, [M], as the programs take it."""
    return place(group, values if group.stacked else values[0])


def stacked_configs(group: Group) -> Config:
    """The configs of the group as one: every traced number [M]."""
    kind = {int: np.int32, float: jax.dtypes.canonicalize_dtype(float)}
    rows = [jax.tree.map(lambda v: np.asarray(v, kind[type(v)]), c) for c in group.configs]
    return stack(group, rows)


def _over_runs(group: Group, function: Callable, *, shared: int | None = None) -> Callable:
    """`function` of one run over the leading axis, spread over the devices.

    `shared` is the position of the one argument that is the same for all runs.
    """
    if not group.stacked:
        return function

    def mapped(*arguments):
        axes = tuple(None if i == shared else 0 for i in range(len(arguments)))
        specs = tuple(
            PartitionSpec() if axis is None else PartitionSpec(meshes.MEMBERS) for axis in axes
        )
        return jax.shard_map(
            jax.vmap(function, axes),
            mesh=group.mesh,
            in_specs=specs,
            out_specs=PartitionSpec(meshes.MEMBERS),
            axis_names={meshes.MEMBERS},
            check_vma=False,
        )(*arguments)

    return mapped


def _compiled(
    group: Group, function: Callable, *, shared: int | None = None, donate: int | None = None
) -> Any:
    mapped = _over_runs(group, function, shared=shared)
    return jax.jit(mapped, donate_argnums=donate, out_shardings=_sharding(group))


def initial_states(group: Group, configs: Config) -> list[TrainState]:
    """The state of each run before its first step, on the host."""

    def init(config):
        return training.init_state(config, model=group.setup.model)

    states = meshes.fetch(_compiled(group, init)(configs))
    return [pick(group, states, index) for index in range(len(group.configs))]


def compile_call(group: Group, configs: Config, states: TrainState, images: Array) -> Any:
    """`training.train_call` for all runs: (configs, states, images, active [M]) -> as there.

    A run that is not active keeps its state. States are donated.
    """
    setup = group.setup

    def call(config, state, images, active):
        new, metrics = training.train_call(
            state,
            images,
            config=config,
            model=setup.model,
            plan=setup.plan,
        )
        if group.stacked:
            new = jax.tree.map(lambda n, o: jnp.where(active, n, o), new, state)
        return new, metrics

    active = place_per_run(group, np.ones(group.rows, bool))
    program = _compiled(group, call, shared=2, donate=1)
    return program.lower(configs, states, images, active).compile()


def make_best_updater(group: Group) -> Callable[..., TrainState]:
    """`training.update_best` of the runs that are due: (configs, states, values, due) -> states."""
    plan = group.setup.plan

    def update(
        config: Config, state: TrainState, value: Float[Array, ""], due: Bool[Array, ""]
    ) -> TrainState:
        new = training.update_best(state, value, config=config, plan=plan)
        return jax.tree.map(lambda n, o: jnp.where(due, n, o), new, state)

    return _compiled(group, update, donate=1)
