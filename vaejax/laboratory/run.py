"""The gradient laboratory: measuring estimators on a run's data, with its files and table."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from vaejax import config as config_lib
from vaejax import keys
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import UserError, shown
from vaejax.evaluation import mapping
from vaejax.laboratory import draws as gradient_lab
from vaejax.laboratory import figures as gradient_plots
from vaejax.laboratory import settings as settings_lib
from vaejax.laboratory.draws import Pair
from vaejax.laboratory.settings import Settings
from vaejax.models import latent_variable
from vaejax.storage import files
from vaejax.storage import workdir as workdir_lib
from vaejax.training import memory, runs
from vaejax.training import step as training
from vaejax.types import Model, Params

RESULT = "gradients.json"
_TIMED = 5


def measure_run(workdir: pathlib.Path, settings: Settings, *, console: Console) -> dict[str, Any]:
    """The laboratory at the parameters of the run in `workdir`; writes its files there.

    Raises:
      UserError: no run or checkpoint, or settings that cannot be, or a full disk.
    """
    config = workdir_lib.read_config(workdir)
    held_out = splits.held_out(config, settings.split)
    trained = runs.load_run(workdir, held_out.shape, console=console)
    gradient = config.objective.gradient
    settings = settings_lib.resolved(settings, trained.model, trained=gradient)
    params = training.evaluation_params(trained.state)
    return _measure(config, trained.model, params, held_out, settings, workdir, console=console)


def measure_config(
    config: Config, out: pathlib.Path, settings: Settings, *, console: Console
) -> dict[str, Any]:
    """The laboratory at the parameters that `config` starts from; writes its files to `out`.

    Raises:
      UserError: bad data, no run to start from, or settings that cannot be, or a full disk.
    """
    held_out = splits.held_out(config, settings.split)
    data = splits.training_data(config)
    splits.check_likelihood(config, data.kind, wanted=latent_variable.data_of(config.model))
    model = latent_variable.build(config.model, data.spec)
    settings = settings_lib.resolved(settings, model, trained=None)
    like = jax.eval_shape(model.init, training.make_keys(config).init)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    memory.check_parameters(needed, limit=memory.device_bytes(jax.devices()[0]))
    params = runs.start_params(config, data.spec, console=console)
    if params is None:
        params = jax.jit(model.init)(training.make_keys(config).init)
    return _measure(config, model, params, held_out, settings, out, console=console)


def _measure(
    config: Config,
    model: Model,
    params: Params,
    held_out: splits.HeldOut,
    settings: Settings,
    out: pathlib.Path,
    *,
    console: Console,
) -> dict[str, Any]:
    if not 1 <= settings.num_examples <= len(held_out.x):
        got = shown(settings.num_examples)
        raise UserError(f"--num_examples: must be in 1..{len(held_out.x)}, got {got}")
    files.require_writable(out, (RESULT, "figures/gradients.png"))
    x = jnp.asarray(mapping.as_float(held_out.x[: settings.num_examples]))
    rows: list[dict[str, Any]] = []
    for num_samples in settings.num_samples:
        for bound in dict.fromkeys(pair.bound for pair in settings.pairs):
            every = [pair for pair in settings.pairs if pair.bound == bound]
            pairs = tuple(p for p in every if p.reference_samples(model) <= num_samples)
            if pairs != tuple(every):
                console.print(_left_out(every, pairs, num_samples), soft_wrap=True, markup=False)
            if not pairs:
                continue
            console.print(f"{bound}, K = {num_samples} ...", soft_wrap=True, markup=False)
            rows += _rows(params, x, model, pairs, num_samples, settings)
    result = {
        "settings": settings._asdict() | {"pairs": [pair.label for pair in settings.pairs]},
        "config": config_lib.to_dict(config),
        "device": str(jax.devices()[0].device_kind),
        "rows": rows,
        "slopes": slopes(rows),
    }
    files.write_json(out / RESULT, result)
    title = f"Gradients of {config.dataset.name}, {settings.num_draws} draws"
    runs.write_figure(out, "gradients", gradient_plots.signal_to_noise(rows, title))
    return result


def _left_out(every: Sequence[Pair], kept: Sequence[Pair], num_samples: int) -> str:
    names = ", ".join(pair.label for pair in every if pair not in kept)
    return f"{names}: left out at K = {num_samples}, too few samples to compare with each other"


def _rows(params, x, model, pairs: Sequence[Pair], num_samples: int, settings: Settings):
    """One row per pair of one bound and K."""
    needed = tuple(dict.fromkeys([*pairs, *(pair.reference(model) for pair in pairs)]))
    program = jax.jit(
        lambda params, key, x: gradient_lab.draw_moments(
            params,
            key,
            x,
            model=model,
            pairs=needed,
            num_samples=num_samples,
            num_draws=settings.num_draws,
        )
    )
    key = jax.random.fold_in(keys.domain(settings.seed, "laboratory/draws"), num_samples)
    compiled = program.lower(params, key, x).compile()
    _check_memory(compiled, num_samples)
    moments = jax.device_get(compiled(params, key, x))
    rows = []
    for pair in pairs:
        found = gradient_lab.summarize(
            moments[pair],
            reference=None if pair.reference(model) == pair else moments[pair.reference(model)],
            num_draws=settings.num_draws,
        )
        row = {
            "pair": pair.label,
            "num_samples": num_samples,
            "reference": pair.reference(model).label,
        }
        row |= {group: s._asdict() | {"biased": s.biased} for group, s in found.items()}
        rows.append(row | {"seconds": _seconds(params, x, model, pair, num_samples)})
    return rows


def _check_memory(compiled: Any, num_samples: int) -> None:
    needed, limit = memory.program_bytes(compiled), memory.device_bytes(jax.devices()[0])
    if needed > limit:
        sizes = f"needs {needed / 2**30:.3g} GiB, {limit / 2**30:.3g} GiB may be used"
        raise UserError(f"--num_samples: K = {num_samples:,} {sizes}; lower it or --num_examples")


def _seconds(params, x, model, pair: Pair, num_samples: int) -> float:
    """Best time of one gradient of all examples, of several."""
    timed = gradient_lab.make_timed(params, x, model=model, pair=pair, num_samples=num_samples)
    jax.block_until_ready(timed(jax.random.key(0)))
    times = []
    for index in range(_TIMED):
        begun = time.perf_counter()
        jax.block_until_ready(timed(jax.random.key(index)))
        times.append(time.perf_counter() - begun)
    return min(times)


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """For each pair the exponent of K in its signal-to-noise ratio, for K above 1."""
    found: dict[str, dict[str, float | None]] = {}
    for label in dict.fromkeys(row["pair"] for row in rows):
        own = [row for row in rows if row["pair"] == label and row["num_samples"] > 1]
        sizes = [row["num_samples"] for row in own]
        found[label] = {
            group: gradient_lab.slope(sizes, [row[group]["snr"] for row in own])
            for group in gradient_lab.GROUPS
        }
    return found


def table(result: dict[str, Any]) -> Table:
    """The measurements as a reader sees them in a terminal."""
    settings = result["settings"]
    shown = Table(
        title=f"{settings['num_draws']} gradients of {settings['num_examples']} examples",
        caption="bias z: paired with the reference, * above "
        f"{gradient_lab.Z_LIMIT:g}: biased; SNR ± one standard error",
    )
    shown.add_column("bound:estimator", overflow="fold")
    names = ["K"]
    for group in gradient_lab.GROUPS:
        names += [f"{group} bias z", f"{group} variance", f"{group} SNR"]
    for name in [*names, "ms"]:
        shown.add_column(name, justify="right")
    for row in result["rows"]:
        cells = [row["pair"], str(row["num_samples"])]
        for group in gradient_lab.GROUPS:
            part = row[group]
            z = "reference" if part["bias_z"] is None else f"{part['bias_z']:.1f}"
            mark = "*" if part["biased"] else ""
            ratio = f"{part['snr']:.3g} ± {part['snr_se']:.1g}"
            cells += [z + mark, f"{part['variance']:.3g}", ratio]
        shown.add_row(*cells, f"{1e3 * row['seconds']:.2f}")
    return shown


def summary_lines(result: dict[str, Any]) -> list[str]:
    """One sentence per pair on how its signal-to-noise ratio moves with K."""
    lines = []
    for label, powers in result["slopes"].items():
        parts = [f"{g} K^{p:+.2f}" for g, p in powers.items() if p is not None and np.isfinite(p)]
        if parts:
            lines.append(f"{label}: signal-to-noise goes as {', '.join(parts)} (K > 1)")
    return lines
