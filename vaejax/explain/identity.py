"""log p(x) = ELBO + KL(q(z|x) || p(z|x)): the three computed apart, and what is left over."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vaejax import config as config_lib
from vaejax.data import splits
from vaejax.explain import closed_forms, draw, plane, vae
from vaejax.explain.result import Picture
from vaejax.models import linear_gaussian
from vaejax.schema import field
from vaejax.types import DataSpec, Model

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


class Terms(NamedTuple):
    """The three parts per example, [N] each, nats, float64.

    Attributes:
      log_marginal: log p(x).
      elbo: the ELBO.
      kl: KL(q(z|x) || p(z|x)).
    """

    log_marginal: Float[np.ndarray, "N"]
    elbo: Float[np.ndarray, "N"]
    kl: Float[np.ndarray, "N"]

    def residual(self) -> Float[np.ndarray, "N"]:
        """|log p(x) - ELBO - KL|: nothing but rounding, if the identity holds."""
        return np.abs(self.log_marginal - self.elbo - self.kl)


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


def linear_terms(x: Float[np.ndarray, "N D"], params: Any) -> Terms:
    """The three closed forms for each row of x. Call it in float64."""

    def example(params, x):
        log_marginal = closed_forms.log_marginal(params["generative"], x)
        return Terms(log_marginal, closed_forms.elbo(params, x), closed_forms.kl(params, x))

    terms = jax.jit(jax.vmap(example, in_axes=(None, 0)))(params, x)
    return jax.tree.map(np.asarray, terms)


def _linear(config: Config, *, seed: int) -> Terms:
    """Closed-form parameters on the training digits; a q that is wrong on purpose."""
    settings = config_lib.override_all(
        config_lib.Config(), {"dataset.binarization": "none", "model.name": "linear_gaussian"}
    )
    train = splits.held_out(settings, "train").x.astype(np.float64)
    x = splits.held_out(settings, "test").x[: config.num_examples].astype(np.float64)
    generative, _ = closed_forms.maximum_likelihood(train, config.linear_latents)
    generative = closed_forms.rotated(generative, seed)
    inference = jax.jit(linear_gaussian.exact_posterior)(generative)
    del inference["lower"]
    for name in ("weights", "bias"):
        inference[name] = (1.0 - config.shrinkage) * inference[name]
    return linear_terms(x, {"generative": generative, "inference": inference})


def vae_terms(
    params: Any,
    x: Float[np.ndarray, "N D"],
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

    @jax.jit
    def parts(params):
        joint = plane.log_joint(params, x, legendre, model=model)
        marginal = jax.vmap(lambda row: plane.log_marginal(row, legendre))(joint)
        under_q = lambda x: plane.elbo(params, x, model=model, num_nodes=nodes_under_q)  # noqa: E731
        elbo = jax.vmap(under_q)(x)
        joint = plane.log_joint(params, x, trapezoidal, model=model)
        guess = jax.vmap(lambda x: plane.log_posterior(params, x, trapezoidal, model=model))(x)
        kl = jax.vmap(lambda row, log_q: plane.kl(row, log_q, trapezoidal))(joint, guess)
        norm = jax.vmap(lambda row: plane.log_marginal(row, trapezoidal))(joint)
        return Terms(marginal, elbo, kl), jnp.exp(joint - norm[:, None]), jnp.exp(guess)

    return jax.tree.map(np.asarray, parts(params))


def _vae(config: Config, *, seed: int):
    settings = config_lib.override_all(
        config_lib.Config(),
        {
            "seed": seed,
            "model.latent_dims": (2,),
            "model.hidden_dims": ((config.hidden_units,) * 2,),
            "training.num_epochs": config.num_epochs,
        },
    )
    data = splits.training_data(settings)
    params = vae.train(settings, data, model=vae.build(settings, data))
    # The initial bias is of no more use, and its digits are of float32.
    model = vae.build(settings, data._replace(spec=DataSpec(data.spec.shape, None)))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        x = splits.held_out(settings, "test").x[: config.num_examples].astype(np.float64)
        half_width = float(jax.jit(lambda p: plane.half_width(p, x, model=model))(double))
        nodes = config.grid_nodes
        found = vae_terms(
            double,
            x,
            model=model,
            half_width=half_width,
            num_nodes=nodes,
            nodes_under_q=config.nodes_under_q,
        )
        return *found, np.linspace(-half_width, half_width, nodes)


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
