"""Runs our programs on more than 32,768 rows and saves what they give: for a test, in a process.

python fusion_child.py OUT.npz   (XLA_FLAGS of the caller decide about the fusion)
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import schema
from vaejax.config import Model
from vaejax.evaluation import mapping, per_example
from vaejax.evaluation.mapping import Budget
from vaejax.evidence.estimators import annealed, smc
from vaejax.models import latent_variable
from vaejax.types import DataSpec

ROWS = 33_000  # above 2^15, where jaxlib's issue 39103 begins
MODELS = {
    "bernoulli": {"latent_dims": (2,), "encoder": "mlp(hidden_dims=(5,))"},
    "two_layers": {
        "latent_dims": (3, 2),
        "encoder": "mlp(hidden_dims=(5,)), mlp(hidden_dims=(4,))",
    },
    "linear": {
        "latent_dims": (2,),
        "encoder": "linear",
        "posterior": "full_normal(shared_scale=True)",
        "likelihood": "normal",
    },
}
WIDE = {"latent_dims": (16,), "encoder": "mlp(hidden_dims=(64, 64))"}
CHAINS = {"num_temperatures": 3, "num_leapfrog": 2, "pilot_examples": 2}
CHAINS |= {"pilot_temperatures": 2, "pilot_moves": 2}


def _evaluations(model, params, spec):
    """Many samples of one example, and many examples with one sample."""
    for count, num_samples in ((1, ROWS), (ROWS, 1)):
        x = np.random.default_rng(0).uniform(size=(count, *spec.shape)) < 0.5
        example_map = per_example.make(
            model, num_examples=count, num_samples=num_samples, chunk_size=2 * ROWS
        )
        found = mapping.over_examples(example_map, params, jax.random.key(1), x)
        for name in ("elbo", f"iwae_{num_samples}"):
            yield f"evaluation-{num_samples}-{name}", found.weights.values[name]
        yield f"evaluation-{num_samples}-means", found.unit_means[0]


def _chains(model, params, spec, *, particles):
    """Annealed chains, and with `particles` those of SMC, together above the limit."""
    x = np.random.default_rng(0).uniform(size=(ROWS // 2, *spec.shape)) < 0.5
    budgets = {
        "annealed": (annealed, annealed.Config(num_chains=2, **CHAINS), x),
        "smc": (smc, smc.Config(num_repeats=2, num_particles=ROWS, num_moves=1, **CHAINS), x[:1]),
    }
    if not particles:
        del budgets["smc"]
    for name, (module, config, rows) in budgets.items():
        estimator = module.build(config, model=model)
        pilot_x = jnp.asarray(mapping.as_float(x[:2]))
        tuning = jax.jit(estimator.pilot)(params, jax.random.key(2), pilot_x)
        budget = Budget(rows=estimator.rows, max_rows=2 * ROWS, work=1)
        example_map = mapping.make(
            lambda both, key, x, run=estimator.estimate: run(both[0], key, x, both[1]),
            num_examples=len(rows),
            budget=budget,
        )
        found = mapping.over_examples(example_map, (params, tuning), jax.random.key(3), rows)
        yield name, found[name].value
        yield f"{name}-variance", found[name].variance


def _control():
    """The program of the issue: off by 1% in the last row where the fusion is at fault."""
    first = jnp.arange(32_769, dtype=jnp.float32)
    x = jnp.stack((first, 0.0 * first, 0.0 * first), axis=1)
    matrix = jnp.eye(3)
    return jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x))(x)[-1:]


def main(path):
    """Saves every result under its name."""
    spec, results = DataSpec((2, 3, 1), None), {"control": _control()}
    for which, fields in MODELS.items():
        model = latent_variable.build(schema.checked(Model(**fields)), spec)
        params = jax.jit(model.init)(jax.random.key(0))
        # SMC moves as annealed chains do, and takes half a minute to compile for each model.
        chains = functools.partial(_chains, particles=which == "bernoulli")
        for part in (_evaluations, chains):
            for name, value in part(model, params, spec):
                results[f"{which}/{name}"] = np.asarray(value)
    spec = DataSpec((8, 8, 1), None)
    model = latent_variable.build(schema.checked(Model(**WIDE)), spec)
    params = jax.jit(model.init)(jax.random.key(0))
    for name, value in _evaluations(model, params, spec):
        results[f"wide/{name}"] = np.asarray(value)
    np.savez(path, **results)


if __name__ == "__main__":
    main(sys.argv[1])
