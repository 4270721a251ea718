"""What --dry_run says of a run before anything is trained."""

import math

from vaejax import consistency, meshes
from vaejax.config import Config
from vaejax.data import splits
from vaejax.experiment import config_help
from vaejax.training import rehearsal
from vaejax.training.rehearsal import Rehearsal

_MOST_SHAPES, _MIB = 40, 2**20


def lines(config: Config, *, layout: meshes.Layout = meshes.BY_ITSELF) -> list[str]:
    """Config, data, shapes, number of parameters, memory and time of the run, in sentences.

    Nothing is written; a few steps are taken on a state that is thrown away.

    Raises:
      UserError: whatever training would be refused for.
    """
    found = rehearsal.rehearse(config, layout=layout)
    return [
        *config_help.summary(config),
        *(f"warning: config.{warning}" for warning in consistency.warnings(config)),
        "",
        *_data(config, found),
        "",
        *_model(found),
        "",
        *_cost(found),
    ]


def _data(config: Config, found: Rehearsal) -> list[str]:
    data, test = found.setup.data, splits.held_out(config, "test")
    size = " x ".join(map(str, data.spec.shape))
    said = [f"data: {config.dataset.name}, images of {size}; x: {test.values}"]
    said += [f"  train: {len(data.images):,} images ({data.kind})"]
    for name, held_out in (("validation", data.validation), ("test", test)):
        if held_out is not None:
            count, digest = len(held_out.x), held_out.sha256[:16]
            said.append(f"  {name}: {count:,} images, sha256 of x {digest}..")
    return said


def _model(found: Rehearsal) -> list[str]:
    sizes = {path: math.prod(shape) for path, shape in found.shapes.items()}
    parts = {
        f"{name} ({letter})": sum(n for path, n in sizes.items() if path.startswith(name))
        for name, letter in (("generative", "theta"), ("inference", "phi"))
    }
    each = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    said = [f"model: {sum(sizes.values()):,} parameters: {each}"]
    listed = list(found.shapes.items())
    said += [
        f"  {path}  {' x '.join(map(str, shape)) or '1'}" for path, shape in listed[:_MOST_SHAPES]
    ]
    rest = len(listed) - _MOST_SHAPES
    return said + ([f"  and {rest} more arrays"] if rest > 0 else [])


def _cost(found: Rehearsal) -> list[str]:
    plan, config = found.setup.plan, found.setup.config
    needed, limit = found.program_bytes / _MIB, found.limit_bytes / _MIB
    fits = "" if needed <= limit else "; it does not fit: training would be refused"
    epoch = plan.steps_per_epoch * found.step_seconds
    whole = config.training.num_epochs * epoch
    return [
        f"memory: state {found.state_bytes / _MIB:,.1f} MiB; training program {needed:,.1f} MiB "
        f"of the {limit:,.0f} MiB that may be used{fits}",
        f"time: {1e3 * found.step_seconds:.3g} ms a step, so about {epoch:.3g} s an epoch "
        f"({plan.steps_per_epoch:,} steps) and {whole:,.3g} s for {config.training.num_epochs:,} "
        f"epochs, without validation and files; compiled in {found.compile_seconds:.2g} s "
        f"({found.num_devices} device{'s' if found.num_devices > 1 else ''}; timed just now, for "
        f"two seconds)",
    ]
