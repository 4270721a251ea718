"""log p(x) = ELBO + KL(q(z|x) || p(z|x)): the three computed apart, and what is left over."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vaejax.data import splits
from vaejax.explain import closed_forms, draw, measure, plane, train
from vaejax.explain.result import Picture, Terms
from vaejax.models import latent_variable, linear_gaussian
from vaejax.models.linear_gaussian import LinearGaussian, LinearPosterior
from vaejax.schema import field
from vaejax.types import Model, Params

QUESTION = "How does the ELBO relate to log p(x)?"


@dataclasses.dataclass(frozen=True)
class Config:
    """Two models of the digits: a linear-Gaussian one, and a VAE with two latents."""

    num_examples: int = field(6, "test digits shown", low=1, high=50)
    linear_latents: int = field(8, "latents of the linear-Gaussian model", low=1, high=60)
    shrinkage: float = field(0.3, "its q's mean is pulled to 0 by this share", low=0.0, high=1.0)
    num_epochs: int = field(150, "epochs of the VAE's training", low=1)
    hidden_units: int = field(128, "width of its two hidden layers, encoder and decoder", low=1)
    grid_nodes: int = field(401, "grid nodes per latent", low=51, high=1001)
    nodes_under_q: int = field(128, "Gauss-Hermite nodes per latent", low=8, high=180)


class Findings(NamedTuple):
    """Attributes:

    linear: the linear-Gaussian model, from three closed forms.
    vae: the VAE, from three ways to integrate over its two latents.
    posterior: p(z|x) of the VAE on `axis` x `axis`, [N, G, G].
    approximation: q(z|x) there.
    axis: the nodes of each latent, [G].
    """

    linear: Terms
    vae: Terms
    posterior: Float[np.ndarray, "N G G"]
    approximation: Float[np.ndarray, "N G G"]
    axis: Float[np.ndarray, "G"]


def linear_terms(
    model: LinearGaussian, posteriors: Sequence[LinearPosterior], x: Float[np.ndarray, "N ..."]
) -> Terms:
    """The three closed forms for each of B posteriors and each x, [B, N]. Call it in float64."""

    def example(q, key, x):
        log_marginal = closed_forms.log_marginal(model, x)
        return Terms(log_marginal, closed_forms.elbo(model, q, x), closed_forms.kl(model, q, x))

    return measure.each(example, posteriors, x, rows=1)


def _linear(config: Config, *, seed: int) -> Terms:
    """Closed-form parameters on the training digits; a q that is wrong on purpose."""
    x = measure.grey_digits("test")
    model, _ = closed_forms.maximum_likelihood(measure.grey_digits("train"), config.linear_latents)
    model = closed_forms.rotated(model, seed)
    posterior = jax.jit(linear_gaussian.exact_posterior)(model)
    kept = 1.0 - config.shrinkage
    q = LinearPosterior(
        kept * posterior.weights, kept * posterior.bias, jnp.diag(jnp.diag(posterior.factor))
    )
    terms = linear_terms(model, [q], x[: config.num_examples])
    return jax.tree.map(lambda leaf: leaf[0], terms)


def vae_terms(
    params: Params,
    x: Float[np.ndarray, "N ..."],
    *,
    model: Model,
    half_width: float,
    num_nodes: int,
    nodes_under_q: int,
) -> tuple[Terms, Float[np.ndarray, "N M"], Float[np.ndarray, "N M"]]:
    """Three ways to integrate over two latents, one per term. Call it in float64.

    log p(x) by Gauss-Legendre on a square, the ELBO by Gauss-Hermite nodes under q and a
    closed-form KL to the prior, KL(q || p(z|x)) by the trapezoidal rule on the square, the
    posterior normalised there.

    Returns:
      The terms, and p(z|x) and q(z|x) at the M trapezoidal nodes.
    """
    legendre = plane.gauss_legendre(half_width, num_nodes)
    trapezoidal = plane.trapezoidal(half_width, num_nodes)

    def example(params, key, x):
        marginal = plane.log_marginal(plane.log_joint(params, x, legendre, model=model), legendre)
        elbo = plane.elbo(params, x, model=model, num_nodes=nodes_under_q)
        joint = plane.log_joint(params, x, trapezoidal, model=model)
        guess = plane.log_posterior(params, x, trapezoidal, model=model)
        posterior = joint - plane.log_marginal(joint, trapezoidal)
        terms = Terms(marginal, elbo, plane.kl(joint, guess, trapezoidal))
        return terms, jnp.exp(posterior), jnp.exp(guess)

    found = measure.each(example, [params], x, rows=num_nodes**2)
    return jax.tree.map(lambda leaf: leaf[0], found)


def _vae(config: Config, *, seed: int):
    settings = train.digits_vae(
        seed=seed,
        latent_dim=2,
        hidden_dims=(config.hidden_units,) * 2,
        num_epochs=config.num_epochs,
    )
    data = splits.training_data(settings)
    model = latent_variable.build(settings.model, data.spec)
    params = train.trained(settings, data, model=model)
    with jax.enable_x64(True):
        double = measure.in_float64(params)
        x = splits.held_out(settings, "test").x[: config.num_examples].astype(np.float64)
        half_width = float(measure.half_widths([double], x, model=model)[0])
        found = vae_terms(
            double,
            x,
            model=model,
            half_width=half_width,
            num_nodes=config.grid_nodes,
            nodes_under_q=config.nodes_under_q,
        )
    return *found, np.linspace(-half_width, half_width, config.grid_nodes)


def compute(config: Config, *, seed: int) -> Findings:
    """Both models' terms on the first test digits."""
    with jax.enable_x64(True):
        linear = _linear(config, seed=seed)
    terms, posterior, approximation, axis = _vae(config, seed=seed)
    shape = (len(posterior), len(axis), len(axis))
    return Findings(linear, terms, posterior.reshape(shape), approximation.reshape(shape), axis)


def numbers(findings: Findings) -> dict[str, Any]:
    """Means over examples and the largest residual of each model, in nats."""
    return {
        name: {
            "log_marginal_nats": float(terms.log_marginal.mean()),
            "elbo_nats": float(terms.elbo.mean()),
            "kl_nats": float(terms.kl.mean()),
            "largest_residual_nats": float(terms.residual().max()),
        }
        for name, terms in {"linear-Gaussian": findings.linear, "VAE": findings.vae}.items()
    }


def headline(findings: Findings) -> str:
    """The residuals."""
    exact, integrated = findings.linear.residual().max(), findings.vae.residual().max()
    return (
        f"log p(x) - ELBO - KL is at most {exact:.0e} nat in closed form, "
        f"{integrated:.0e} by quadrature"
    )


def sentences(findings: Findings) -> list[str]:
    """What the identity says, on one digit and on all."""
    terms = findings.vae
    worst = int(np.argmax(terms.kl))
    residual = max(findings.linear.residual().max(), terms.residual().max())
    least = min(findings.linear.kl.min(), terms.kl.min())
    return [
        f"For digit {worst + 1} the VAE's ELBO is {terms.elbo[worst]:.3f} nats, the distance "
        f"KL(q || p(z|x)) from its encoder's guess to the true posterior is "
        f"{terms.kl[worst]:.3f}, and together they are log p(x) = "
        f"{terms.log_marginal[worst]:.3f}.",
        f"Each of the three was computed without the other two, and yet over "
        f"{len(terms.kl)} digits and two models nothing more than {residual:.0e} nat is left "
        f"over: ELBO + KL is log p(x), not roughly but exactly.",
        f"A KL is never negative (the smallest here is {least:.3f}), "
        f"so the ELBO is a lower bound, and how far it falls short says how wrong q is.",
    ]


def pictures(findings: Findings) -> dict[str, Picture]:
    """Stacked bars with what is left over, and q beside the posterior."""
    return {
        "bars": Picture(
            "Per test digit: the ELBO (blue, from the lower end of the axis) and the KL on top "
            "of it (orange) reach log p(x) (black), which was computed without them; below, "
            "what is left over, in nats.",
            _bars(findings),
        ),
        "posteriors": Picture(
            "The two-dimensional latent space for three digits: true posterior p(z|x) (filled) "
            "and the encoder's q(z|x) (lines, at half, a tenth and a hundredth of its peak).",
            _posteriors(findings),
        ),
    }


def _bars(findings: Findings) -> Figure:
    figure, axes = draw.panels(9.6, 5.6, 2, 2, height_ratios=(3, 1))
    columns = {
        "linear-Gaussian model: closed forms": (findings.linear, 1e-8),
        "VAE with two latents: quadrature": (findings.vae, 1e-5),
    }
    for (upper, lower), (title, (terms, tolerance)) in zip(axes.T, columns.items(), strict=True):
        digits = np.arange(1, len(terms.kl) + 1)
        top, bottom = terms.log_marginal.max(), terms.elbo.min()
        floor = bottom - 0.3 * (top - bottom) - 1.0
        upper.bar(digits, terms.elbo - floor, bottom=floor, color=draw.ELBO, label="ELBO")
        upper.bar(digits, terms.kl, bottom=terms.elbo, color=draw.KL, label="KL(q || p(z|x))")
        upper.hlines(
            terms.log_marginal, digits - 0.46, digits + 0.46, color="black", lw=2.5,
            label="log p(x), computed apart",
        )  # fmt: skip
        for digit, elbo, kl in zip(digits, terms.elbo, terms.kl, strict=True):
            shown = {"ha": "center", "fontsize": 8}
            upper.text(
                digit, elbo - 0.01 * (top - floor), f"{elbo:.2f}", color="w", va="top", **shown
            )
            upper.text(digit, elbo + kl, f"KL {kl:.2f}\n", va="center", **shown)
        upper.set_ylim(floor, top + 0.25 * (top - floor))
        draw.finish(upper, title=title, ylabel="nats", xlabel="test digit")
        upper.legend(frameon=False, fontsize=8, loc="upper center", ncols=3, columnspacing=1.0)
        lower.semilogy(digits, np.maximum(terms.residual(), 1e-16), "o", color=draw.LOG_MARGINAL)
        lower.axhline(tolerance, color=draw.DATA, ls="--", lw=1)
        draw.label(
            lower, digits[0], tolerance, f"tolerance {tolerance:.0e}", draw.DATA, va="bottom"
        )
        lower.set_ylim(1e-17, 20 * tolerance)
        draw.finish(lower, xlabel="test digit", ylabel="nats", title="what is left over")
        lower.title.set_fontsize(10)
        for panel in (upper, lower):
            panel.set_xticks(digits)
    return figure


def _posteriors(findings: Findings) -> Figure:
    order = np.argsort(findings.vae.kl)
    chosen = sorted({order[0], order[len(order) // 2], order[-1]}, key=lambda i: findings.vae.kl[i])
    figure, axes = draw.panels(3.2 * len(chosen), 3.5, 1, len(chosen), squeeze=False)
    for panel, index in zip(axes[0], chosen, strict=True):
        true, guess = findings.posterior[index], findings.approximation[index]
        seen = (true > 1e-3 * true.max()) | (guess > 1e-3 * guess.max())
        # Axis 0 of the arrays is the first latent, drawn to the right.
        panel.contourf(findings.axis, findings.axis, true.T, levels=12, cmap="Greys")
        panel.contour(
            findings.axis, findings.axis, guess.T / guess.max(), levels=(0.01, 0.1, 0.5),
            colors=draw.ELBO, linewidths=1.2,
        )  # fmt: skip
        for limits, axis in ((panel.set_xlim, 1), (panel.set_ylim, 0)):
            inside = findings.axis[seen.any(axis=axis)]
            limits(inside[0], inside[-1])
        draw.finish(
            panel,
            title=f"digit {index + 1}: KL = {findings.vae.kl[index]:.2f} nats",
            xlabel="latent $z_1$",
            ylabel="latent $z_2$" if panel is axes[0, 0] else "",
        )
    figure.suptitle("grey: true posterior p(z|x); blue lines: the encoder's q(z|x)", fontsize=10)
    return figure
