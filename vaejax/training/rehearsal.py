"""A few steps of a run on a state that is thrown away: what the run needs of memory and time."""

import time
from typing import NamedTuple

import jax
import numpy as np

from vaejax import meshes
from vaejax.config import Config
from vaejax.training import memory, programs
from vaejax.training.programs import Setup

_STEPS, _SECONDS = 10, 2.0


class Rehearsal(NamedTuple):
    """What was found.

    Attributes:
      setup: config, data, model and plan of the run.
      shapes: of every array of the parameters, by path.
      state_bytes: parameters, Adam's moments, averages.
      program_bytes: what the training program holds on one device, the images included.
      limit_bytes: what it may hold.
      num_devices: over which batches are spread.
      compile_seconds: of the training program.
      step_seconds: of one optimiser step.
    """

    setup: Setup
    shapes: dict[str, tuple[int, ...]]
    state_bytes: int
    program_bytes: int
    limit_bytes: int
    num_devices: int
    compile_seconds: float
    step_seconds: float


def rehearse(config: Config, *, layout: meshes.Layout = meshes.BY_ITSELF) -> Rehearsal:
    """Compiles the training program of `config` and times it for about two seconds.

    A scan of ten steps over the images of ten batches stands for the scan of a run.

    Raises:
      UserError: as `programs.set_up`, or a layout that does not fit.
    """
    setup = programs.set_up(config)
    steps = min(_STEPS, setup.plan.steps_per_call)
    images = setup.data.images
    few = images[: steps * config.training.batch_size]
    short = setup._replace(plan=setup.plan._replace(steps_per_call=steps))
    group = programs.make_group([config], short, layout)
    configs = programs.stacked_configs(group)
    (state,) = programs.initial_states(group, configs)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    placed = programs.place(group, few, shared=True)
    states = programs.stack(group, [state])
    begun = time.monotonic()
    program = programs.compile_call(group, configs, states, placed)
    compiled = time.monotonic() - begun
    active = programs.place_per_run(group, np.ones(group.rows, bool))
    states, _ = jax.block_until_ready(program(configs, states, placed, active))
    begun, calls = time.monotonic(), 0
    while time.monotonic() - begun < _SECONDS or not calls:
        states, _ = jax.block_until_ready(program(configs, states, placed, active))
        calls += 1
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return Rehearsal(
        setup=setup,
        shapes={name(path): leaf.shape for path, leaf in leaves},
        state_bytes=sum(sizes),
        program_bytes=memory.program_bytes(program) + images.nbytes - few.nbytes,
        limit_bytes=memory.device_bytes(jax.devices()[0], sharers=group.mesh.size),
        num_devices=group.mesh.size,
        compile_seconds=compiled,
        step_seconds=(time.monotonic() - begun) / (calls * steps),
    )
