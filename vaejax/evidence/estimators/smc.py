"""Tempered sequential Monte Carlo (SMC): particles, reweighted, resampled and moved."""

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure

from vaejax.evidence import annealing
from vaejax.evidence.diagnostics import Watched
from vaejax.evidence.estimators import annealed
from vaejax.objectives import bounds
from vaejax.schema import field
from vaejax.types import Estimator, Evidence, Model

if TYPE_CHECKING:  # importing blackjax starts JAX's backend: only for those who sample
    from blackjax.smc import adaptive_tempered

LABELS = {"smc": "estimate"}
JUDGE = 5
REPORT = "rows"
_MOST = 2**31 - 1
_MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Config(annealing.Budget):
    """Budget; temperatures are chosen as the particles go, the pilot gives step sizes."""

    num_temperatures: int = field(50, "resolution of the pilot's step sizes", low=1, high=_MOST)
    num_repeats: int = field(8, "independent populations per example", low=2, high=_MOST)
    num_particles: int = field(128, "particles in each", low=2, high=_MOST)
    num_moves: int = field(2, "HMC moves per temperature", low=1, high=_MOST)
    target_ess: float = field(0.9, "share of the ESS kept by a step", low=0.05, below=1.0)


class Diagnostics(NamedTuple):
    """Attributes:

    spread: standard deviation of log evidence over the repeats, nats.
    num_steps: most temperatures that any repeat used.
    acceptance: mean acceptance over all moves.
    divergent_moves: moves that diverged (each was rejected).
    broken_chains: repeats without a finite weight; they count with weight zero.
    """

    spread: Float[Array, "*N"]
    num_steps: Int[Array, "*N"]
    acceptance: Float[Array, "*N"]
    divergent_moves: Int[Array, "*N"]
    broken_chains: Int[Array, "*N"]

    def watched(self) -> Watched:
        """Totals of what went wrong, the most temperatures, means of the rest."""
        counts = {name: int(np.sum(getattr(self, name))) for name in self._fields[3:]}
        means = {name: float(np.mean(getattr(self, name))) for name in ("spread", "acceptance")}
        return Watched(counts, means | {"num_steps": int(np.max(self.num_steps))})


def problems(config: Config, *, model: Model, num_latents: int, num_samples: int) -> list[str]:
    """As `annealed`."""
    return annealed.start_problems("smc", config, model=model)


class _Run(NamedTuple):
    state: "adaptive_tempered.tempered.TemperedSMCState"
    num_steps: Int[Array, ""]
    log_evidence: Float[Array, ""]
    acceptance: Float[Array, ""]
    divergent: Int[Array, ""]


def _kernel(path: annealing.Path, config: Config):
    """blackjax's adaptive tempered SMC step along `path`."""
    from blackjax.mcmc import hmc
    from blackjax.smc import adaptive_tempered, resampling

    def log_ratio(z):
        log_base, log_target = path.log_densities(z)
        return log_target - log_base

    def hmc_move(key, state, log_density, step_size, inverse_mass_matrix):
        return hmc.build_kernel()(
            key, state, log_density, step_size, inverse_mass_matrix, config.num_leapfrog
        )

    return adaptive_tempered.build_kernel(
        lambda z: path.log_densities(z)[0],
        log_ratio,
        hmc_move,
        hmc.init,
        resampling.systematic,
        config.target_ess,
    )


def run(
    key: PRNGKeyArray, path: annealing.Path, schedule: annealing.Schedule, *, config: Config
) -> _Run:
    """One population from f_0 to the posterior.

    log evidence = sum over temperatures of the log mean incremental weight (Del Moral,
    Doucet and Jasra 2006, eq. 14). Adaptive temperatures cost its exact unbiasedness.
    """
    from blackjax.smc import adaptive_tempered

    kernel = _kernel(path, config)
    start_key, steps_key = jax.random.split(key)
    particles = jax.vmap(path.sample)(jax.random.split(start_key, config.num_particles))
    state = adaptive_tempered.init(particles)
    dtype = particles.dtype
    state = state._replace(
        tempering_param=jnp.zeros((), dtype), weights=state.weights.astype(dtype)
    )

    def going_on(run):
        return (run.state.tempering_param < 1.0) & (run.num_steps < _MAX_STEPS)

    def step(run):
        b = run.state.tempering_param
        step_size = jnp.interp(b, schedule.temperatures[1:], schedule.step_sizes)
        moves = {
            "step_size": step_size[None],
            "inverse_mass_matrix": annealing.variance_at(path, b)[None],
        }
        step_key = jax.random.fold_in(steps_key, run.num_steps)
        state, info = kernel(step_key, run.state, config.num_moves, moves)
        return _Run(
            state,
            run.num_steps + 1,
            run.log_evidence + info.log_likelihood_increment,
            run.acceptance + jnp.mean(info.update_info.acceptance_rate),
            run.divergent + jnp.sum(info.update_info.is_divergent, dtype=jnp.int32),
        )

    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    done = jax.lax.while_loop(going_on, step, _Run(state, none, zero, zero, none))
    reached = done.state.tempering_param >= 1.0
    return done._replace(log_evidence=jnp.where(reached, done.log_evidence, jnp.nan))


def build(config: Config, *, model: Model) -> Estimator:
    """Log mean evidence over independent repeats, its error from their spread."""

    def estimate(params, key, x, tuning):
        path_key, runs_key = jax.random.split(key)
        path = annealing.make_path(params, path_key, x, model=model, start=config.start)
        keys = jax.random.split(runs_key, config.num_repeats)
        runs = jax.vmap(lambda key: run(key, path, tuning, config=config))(keys)
        broken = ~jnp.isfinite(runs.log_evidence)
        log_evidence = jnp.where(broken, -jnp.inf, runs.log_evidence)
        variance = annealed.mean_weight_variance(log_evidence)
        watched = Diagnostics(
            jnp.std(runs.log_evidence, ddof=1),
            jnp.max(runs.num_steps),
            jnp.mean(runs.acceptance / runs.num_steps),
            jnp.sum(runs.divergent),
            jnp.sum(broken),
        )
        trusted = (variance <= annealed.TRUSTED_VARIANCE) & ~jnp.any(broken)
        return {"smc": Evidence(bounds.iwae(log_evidence), variance, trusted, watched)}

    pilot = functools.partial(annealing.pilot, model=model, budget=config)
    rows = config.num_repeats * config.num_particles
    # The number of temperatures is not known before: about that of the pilot.
    work = rows * config.num_moves * config.num_leapfrog * config.num_temperatures
    return Estimator(pilot, estimate, rows=rows, work=work, pilot_examples=config.pilot_examples)


def figures(results: dict[str, Evidence], tuning: annealing.Schedule) -> dict[str, Figure]:
    """None: temperatures differ between examples."""
    return {}
