"""Both halves are trained: how much of the ELBO's rise is log p(x), how much a smaller KL."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vaejax.config import Optimizer
from vaejax.data import splits
from vaejax.explain import draw, measure, plane, train
from vaejax.explain.result import Picture, Terms
from vaejax.models import latent_variable
from vaejax.schema import field

QUESTION = "When a VAE trains, does the model get better, or only the encoder?"


@dataclasses.dataclass(frozen=True)
class Config:
    """A VAE of the digits with two latents, so that log p(x) can be integrated."""

    num_epochs: int = field(80, "epochs of training", low=2)
    num_examples: int = field(40, "training digits that are measured", low=2)
    hidden_units: int = field(64, "width of its two hidden layers, encoder and decoder", low=1)
    learning_rate: float = field(1e-3, "Adam's rate", low=0.0)
    grid_nodes: int = field(151, "grid nodes per latent", low=51, high=1001)
    nodes_under_q: int = field(32, "Gauss-Hermite nodes per latent", low=8, high=180)


Findings = Terms
"""Means over the measured digits before training and after each epoch, [E + 1]: log p(x) by the
trapezoidal rule, the ELBO by Gauss-Hermite quadrature under q, the KL by the trapezoidal rule."""


def compute(config: Config, *, seed: int) -> Findings:
    """Trains on the ELBO and measures all three parts before it and after every epoch."""
    settings = train.digits_vae(
        seed=seed,
        latent_dim=2,
        hidden_dims=(config.hidden_units,) * 2,
        num_epochs=config.num_epochs,
        optimizer=Optimizer(learning_rate=config.learning_rate),
    )
    data = splits.training_data(settings)
    x = splits.held_out(settings, "train").x[: config.num_examples].astype(np.float64)
    model = latent_variable.build(settings.model, data.spec)

    def example(variant, key, x):
        params, half_width = variant
        rule = plane.trapezoidal(half_width, config.grid_nodes)
        joint = plane.log_joint(params, x, rule, model=model)
        guess = plane.log_posterior(params, x, rule, model=model)
        return Terms(
            plane.log_marginal(joint, rule),
            plane.elbo(params, x, model=model, num_nodes=config.nodes_under_q),
            plane.kl(joint, guess, rule),
        )

    course = list(train.epochs(settings, data.images, kind=data.kind, model=model))
    with jax.enable_x64(True):
        double = [measure.in_float64(params) for params in course]
        widths = measure.half_widths(double, x, model=model)
        variants = list(zip(double, widths, strict=True))
        parts = measure.each(example, variants, x, rows=config.grid_nodes**2)
    return Terms(*(part.mean(axis=1) for part in parts))


def _rises(findings: Findings) -> tuple[Float[np.ndarray, "E"], ...]:
    """Since the start: the ELBO's rise, log p(x)'s, and the KL's fall."""
    return (
        findings.elbo - findings.elbo[0],
        findings.log_marginal - findings.log_marginal[0],
        findings.kl[0] - findings.kl,
    )


def numbers(findings: Findings) -> dict[str, Any]:
    """Start, end and change of the three parts, in nats; every epoch as lists."""
    elbo, marginal, fall = (float(rise[-1]) for rise in _rises(findings))
    parts = {"elbo": findings.elbo, "log_marginal": findings.log_marginal, "kl": findings.kl}
    rows = {
        name: {
            "before_nats": float(values[0]),
            "after_nats": float(values[-1]),
            "change_nats": float(values[-1] - values[0]),
        }
        for name, values in parts.items()
    }
    return rows | {
        "share_of_the_rise_that_is_log_marginal": marginal / elbo if elbo else 0.0,
        "share_of_the_rise_that_is_smaller_kl": fall / elbo if elbo else 0.0,
        "epochs_in_which_kl_rose": int((np.diff(findings.kl) > 0).sum()),
        "epochs": len(findings.kl) - 1,
        "largest_residual_nats": float(findings.residual().max()),
        "every_epoch": {f"{name}_nats": values.tolist() for name, values in parts.items()},
    }


def headline(findings: Findings) -> str:
    """The split of the whole rise."""
    elbo, marginal, fall = (rise[-1] for rise in _rises(findings))
    return f"ELBO {elbo:+.2f} nats = {marginal:+.2f} of log p(x) {fall:+.2f} of smaller KL"


def sentences(findings: Findings) -> list[str]:
    """The split at the end, at the first epoch, and in between."""
    elbo, marginal, fall = _rises(findings)
    epochs = len(elbo) - 1
    grew = int((np.diff(findings.kl) > 0).sum())
    return [
        f"In {epochs} epochs the ELBO went from {findings.elbo[0]:.2f} to "
        f"{findings.elbo[-1]:.2f} nats: {marginal[-1]:+.2f} of its {elbo[-1]:+.2f} came from "
        f"log p(x), the model itself, and {fall[-1]:+.2f} from a q closer to the posterior.",
        f"In the first epoch alone it was {marginal[1]:+.2f} of {elbo[1]:+.2f}, "
        f"in the {epochs - 1} epochs after it {marginal[-1] - marginal[1]:+.2f} of "
        f"{elbo[-1] - elbo[1]:+.2f}: the ELBO alone does not tell one from the other.",
        f"The KL rose in {grew} of the {epochs} epochs: the posterior moves with the decoder, "
        f"the encoder runs after it, and only the sum of both, log p(x), says how good the model "
        f"is.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """The three parts, and what became of the ELBO's rise, against the epoch."""
    return {
        "split": Picture(
            "Left: log p(x) (black) and the ELBO (blue) of the measured training digits at every "
            "epoch; between them lies the KL (orange). Right: how far each has come since the "
            "start; the blue line is the sum of the other two.",
            _split(findings),
        )
    }


def _split(findings: Findings) -> Figure:
    figure, (left, right) = draw.panels(9.6, 4.2, 1, 2)
    epochs = np.arange(len(findings.elbo))
    left.fill_between(epochs, findings.elbo, findings.log_marginal, color=draw.KL, alpha=0.4, lw=0)
    left.plot(epochs, findings.log_marginal, color=draw.LOG_MARGINAL, lw=1.8, label="log p(x)")
    left.plot(epochs, findings.elbo, color=draw.ELBO, lw=1.8, label="ELBO")
    left.fill_between([], [], color=draw.KL, alpha=0.4, label="KL(q || p(z|x))")
    draw.finish(left, title="the parts", ylabel="nats per digit")
    left.legend(frameon=False, loc="lower right")
    names = ("ELBO", "log p(x)", "smaller KL")
    colors = (draw.ELBO, draw.LOG_MARGINAL, draw.KL_TEXT)
    rises = _rises(findings)
    heights = draw.apart([rise[-1] for rise in rises], 0.05 * float(np.ptp(np.stack(rises))))
    for name, rise, color, height in zip(names, rises, colors, heights, strict=True):
        right.plot(epochs, rise, color=color, lw=1.8, ls="-" if name == "ELBO" else "--")
        draw.label(right, epochs[-1], height, f"{name} {rise[-1]:+.2f}", color)
    draw.finish(right, title="what the ELBO's rise is made of", ylabel="nats since the start")
    right.margins(x=0)
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= epochs[-1]]
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.set_xlabel("epochs of training")
    return figure
