"""Configs of vaejax 0.1: told from later ones, and turned into what trains the same run again.

Its checkpoints are not read: the trees of parameters and of the optimiser were others.
"""

from collections.abc import Mapping
from typing import Any

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.errors import UserError, shown, unknown

_MODELS = ("mlp", "linear_gaussian")


def wrote(values: Mapping[str, Any]) -> bool:
    """Whether `values`, the config of a run as JSON holds it, is of 0.1."""
    model = values.get("model")
    return "evidence" in values or (isinstance(model, dict) and "name" in model)


def converted(values: Mapping[str, Any]) -> Config:
    """The config of today that trains the run of `values`, a config that 0.1 wrote, again.

    Model, data, objective, optimiser and budgets are the same. Every random number is another, and
    so are the first scale of a normal likelihood and the first weights of linear networks. Budgets
    of `evidence` are left out: they belong to scripts/evaluate.py now.

    Raises:
      UserError: it is no config that 0.1 wrote.
    """
    kept = {name: section for name, section in values.items() if name != "evidence"}
    model = values.get("model")
    if not isinstance(model, dict):
        raise UserError(f"config.model: needs an object, got {shown(model)}")
    try:
        return config_lib.from_dict({**kept, "model": _model(model)})
    except (KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.model: is none that vaejax 0.1 wrote ({reason})") from error


def _model(old: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that one of the two models of 0.1 was made of, by key."""
    name = old.get("name", "mlp")
    if name == "linear_gaussian":
        family = {"full": "full_normal", "diagonal": "normal"}[old["posterior"]]
        return {
            "latent_dims": [old["latent_dim"]],
            "posterior": f"{family}(shared_scale=True)",
            "likelihood": "normal",
            "encoder": "linear",
            "output_bias": old["output_bias"],
        }
    if name != "mlp":
        raise unknown("config.model.name", name, _MODELS)
    options = f"activation={old['activation']!r}, kernel_init={old['kernel_init']!r}"
    networks = [f"mlp(hidden_dims={tuple(widths)}, {options})" for widths in old["hidden_dims"]]
    return {
        "latent_dims": old["latent_dims"],
        "likelihood": old["likelihood"],
        "encoder": networks,
        "output_bias": old["output_bias"],
    }
