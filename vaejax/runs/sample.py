"""Pictures of a run: what its newest checkpoint draws, as figures/sample-*.png and samples.npz."""

import dataclasses
import io
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from vaejax import keys
from vaejax.errors import UserError, shown
from vaejax.evaluation import figures as plots
from vaejax.evaluation import mapping, pictures
from vaejax.models import latents
from vaejax.runs import subject as subject_lib
from vaejax.runs.subject import Subject
from vaejax.storage import files

ARRAYS = "samples.npz"
FIGURES = ("prior", "draws", "reconstructions", "interpolations", "traversals")
_NUM_RECONSTRUCTIONS = 12
_NUM_PAIRS = 8
_NUM_STEPS = 11
_NUM_UNITS = 10
_MOST_EXAMPLES = 500  # on which the most active units are found
_MOST_SAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is drawn.

    Attributes:
      split: "train", "validation" or "test".
      num_samples: from the prior.
      seed: of all draws.
      temperature: of the prior; see `vaejax.models.temperature`.
      units: that are traversed, counted over all layers from the one next to the data on; none:
        the ten that tell most of x.
    """

    split: str = "test"
    num_samples: int = 64
    seed: int = 0
    temperature: float = 1.0
    units: tuple[int, ...] = ()


def sample(
    workdir: pathlib.Path, settings: Settings | None = None, *, console: Console
) -> list[pathlib.Path]:
    """Draws from the run in `workdir`; writes figures/sample-*.png and samples.npz together.

    Returns:
      the files.

    Raises:
      UserError: no run or checkpoint, settings out of range, or a full disk.
    """
    settings = settings or Settings()
    _check(settings)
    names = [f"figures/sample-{name}.png" for name in FIGURES]
    subject = subject_lib.load(workdir, settings.split, console=console)
    files.require_writable(workdir, [ARRAYS, *names])
    arrays = _draw(subject, settings)
    figures = _figures(arrays, subject.held_out.shape)
    content = {ARRAYS: files.npz_bytes(arrays)}
    content |= {name: _png(figures[key]) for name, key in zip(names, FIGURES, strict=True)}
    writers = {name: lambda handle, data=data: handle.write(data) for name, data in content.items()}
    files.publish(workdir, writers)
    return [workdir / name for name in content]


def _check(settings: Settings) -> None:
    if not (math.isfinite(settings.temperature) and 1e-6 <= settings.temperature <= 1e6):
        raise UserError(f"--temperature: must be above 0, in 1e-6..1e6, got {settings.temperature}")
    if not 1 <= settings.num_samples <= _MOST_SAMPLES:
        raise UserError(
            f"--num_samples: must be in 1..{_MOST_SAMPLES}, got {shown(settings.num_samples)}"
        )
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed: must be in 0..{2**31 - 1}, got {shown(settings.seed)}")


def _keys(settings: Settings, purpose: str, count: int) -> jax.Array:
    return jax.random.split(keys.domain(settings.seed, f"sample/{purpose}"), count)


def _draw(subject: Subject, settings: Settings) -> dict[str, np.ndarray]:
    """All arrays of samples.npz."""
    model, params = subject.model, subject.params
    x = jnp.asarray(mapping.as_float(subject.held_out.x[:_MOST_EXAMPLES]))
    temperature = jnp.asarray(settings.temperature, x.dtype)
    prior_keys = _keys(settings, "prior", settings.num_samples)
    means, draws = pictures.from_prior(params, prior_keys, temperature, model=model)
    shown_x = x[:_NUM_RECONSTRUCTIONS]
    rebuilt = pictures.reconstructions(
        params, _keys(settings, "reconstructions", len(shown_x)), shown_x, model=model
    )
    count = min(_NUM_PAIRS, len(x) // 2)
    ways = pictures.interpolations(
        params,
        _keys(settings, "interpolations", count),
        x[:count],
        x[count : 2 * count],
        model=model,
        num_steps=_NUM_STEPS,
    )
    units = _units(subject, settings, x)
    found = pictures.traversals(
        params,
        keys.domain(settings.seed, "sample/traversals"),
        x[0],
        jnp.asarray(units),
        temperature,
        model=model,
        num_steps=_NUM_STEPS,
    )
    made = {
        "prior": means,
        "draws": draws,
        "x": model.intensities(shown_x),
        "reconstructions": rebuilt,
        "interpolations": ways,
        "traversals": found.means,
        "traversals/units": units,
        "traversals/values": found.values,
    }
    return {name: np.asarray(array) for name, array in (made | _origin(subject, settings)).items()}


def _units(subject: Subject, settings: Settings, x: jax.Array) -> np.ndarray:
    """The units to traverse. Raises UserError for one that does not exist."""
    size, _ = latents.unraveller(subject.params, model=subject.model)
    wrong = [unit for unit in settings.units if not 0 <= unit < size]
    if wrong:
        raise UserError(f"--units: must be in 0..{size - 1}, got {shown(wrong[0])}")
    if settings.units:
        return np.asarray(settings.units)
    activity = pictures.unit_activity(
        subject.params, _keys(settings, "activity", len(x)), x, model=subject.model
    )
    return np.argsort(-np.asarray(activity), stable=True)[:_NUM_UNITS]


def _origin(subject: Subject, settings: Settings) -> dict[str, Any]:
    """What the arrays were made of."""
    best = subject.state.best
    return {
        "split": settings.split,
        "seed": settings.seed,
        "temperature": settings.temperature,
        "checkpoint_step": int(subject.state.step if best is None else best.step),
        "params_sha256": subject_lib.params_sha256(subject.params),
        "data_sha256": subject.held_out.sha256,
    }


def _figures(arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
    temperature = f"{float(arrays['temperature']):g}"
    columns = math.ceil(math.sqrt(len(arrays["prior"])))
    x, rebuilt = arrays["x"], arrays["reconstructions"]
    units = ", ".join(map(str, arrays["traversals/units"]))
    pictured = {
        "prior": (arrays["prior"], columns, f"E[x|z], z from p(z) at temperature {temperature}"),
        "draws": (arrays["draws"], columns, f"x from p(x|z), z at temperature {temperature}"),
        "reconstructions": (
            np.concatenate([x, rebuilt]),
            len(x),
            "x (top) and E[x|z], z from q(z|x)",
        ),
        "interpolations": (
            arrays["interpolations"],
            _NUM_STEPS,
            "E[x|z] on great circles between z of two examples",
        ),
        "traversals": (
            arrays["traversals"],
            _NUM_STEPS,
            f"E[x|z], one unit a row: {units}",
        ),
    }
    return {
        name: plots.grid(images.reshape(-1, *shape), shape, width, title)
        for name, (images, width, title) in pictured.items()
    }


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
