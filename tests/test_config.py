"""Reading, checking, overriding and comparing configs."""

import dataclasses
import json
import pathlib

import chex
import jax
import pytest
from conftest import ROOT, small_config

from vaejax import config as config_lib
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.training import runs
from vaejax.training import step as training

EXPLAIN = ROOT / "configs" / "explain.py"  # a config of its own kind: tests/test_explain.py
CONFIG_FILES = sorted({*(ROOT / "configs").glob("*.py")} - {EXPLAIN})


def test_text_is_parsed_by_type():
    config = config_lib.Config()
    cases = {
        "optimizer.learning_rate": ("1e-2", 0.01),
        "objective.num_samples": ("50", 50),
        "training.ema_decay": ("0.99", 0.99),
        "training.patience": ("none", None),
        "model.latent_dims": ("(100, 50)", (100, 50)),
        "model.hidden_dims": ("((200,200),(100,))", ((200, 200), (100,))),
        "optimizer.stage_epochs": ("3", (3,)),
        "dataset.data_dir": ("/some/where", "/some/where"),
        "dataset.name": ("mnist", "mnist"),
    }
    for path, (text, expected) in cases.items():
        value = config_lib.override(config, path, text)
        for part in path.split("."):
            value = getattr(value, part)
        assert value == expected, path
        assert type(value) is type(expected), path


def test_choosing_a_model_takes_its_defaults_and_then_its_own_keys():
    config = config_lib.override_all(
        config_lib.Config(),
        {"model.latent_dim": "4", "model.name": "linear_gaussian", "dataset.binarization": "none"},
    )
    assert config.model.name == "linear_gaussian"
    assert config.model.latent_dim == 4


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_json_gives_back_the_same_config(path):
    config = config_lib.load(str(path))
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


def test_differences_name_the_keys():
    ours, theirs = small_config(seed=1), small_config(objective__beta=0.5)
    assert config_lib.differences(ours, theirs) == ["objective.beta: 1.0 != 0.5", "seed: 1 != 0"]


def test_every_field_says_what_it_means():
    for node in (config_lib.Config(), *(vars(config_lib.Config()).values())):
        if not dataclasses.is_dataclass(node) or node is config_lib.Config().model:
            continue
        for field in dataclasses.fields(node):
            if not dataclasses.is_dataclass(getattr(node, field.name)) and field.name != "name":
                assert field.metadata.get("doc") or type(node).__module__.startswith(
                    "vaejax.models"
                ), field.name


BAD_VALUES = {
    "optimizer.learning_rat=1": "did you mean 'optimizer.learning_rate'",
    "learning_rate=1": "did you mean",
    "optimiser.learning_rate=1": "did you mean 'optimizer.learning_rate'",
    "optimizer.learning_rate=fast": "needs a number, got 'fast'",
    "optimizer.learning_rate=-1": "must be finite and >= 0.0, got -1.0",
    "optimizer.learning_rate=nan": "needs a number",
    "optimizer.b1=1": "< 1.0, got 1.0",
    "objective.num_samples=2.5": "needs a whole number, got '2.5'",
    "objective.num_samples=0": ">= 1, got 0",
    "objective.num_samples=true": "needs a whole number",
    "objective.bound=iwea": "did you mean 'iwae'",
    "objective.gradient=closed_form_kl objective.bound=iwae": "form of the elbo alone",
    "objective.gradient=closed_form_kl model.latent_dims=(3,2) model.hidden_dims=((4,),(4,))": (
        "one stochastic layer"
    ),
    "objective.bound=iwae objective.gradient=stl": "biased for every bound but the elbo",
    "objective.bound=vr_max objective.gradient=doubly_reparameterized": "vr_max has a kink",
    "objective.bound=renyi(alpha=1.0)": "the limit alpha = 1 is the elbo",
    "objective.bound=renyi(beta=0.5)": "unknown 'beta' (legal: alpha)",
    "objective.bound=iwae(alpha=0.5)": "'iwae' has no options, got 'alpha'",
    "objective.bound=renyi(0.5)": "needs name or name(option=value, ...)",
    "objective.bound=renyi(alpha=half)": "needs name or name(option=value, ...)",
    "objective.bound=renyi(alpha='half')": "needs a value like 0.5, got 'half'",
    "objective.bound=ciwae(beta=1.5)": "must be in [0, 1], got 1.5",
    "objective.bound=tvo(partition=(0.0,0.5,0.2,1.0))": "must rise strictly from 0 to 1",
    "objective.bound=tvo(partition=(0.1,1.0))": "must rise strictly from 0 to 1",
    "objective.bound=tvo(side='up')": "'left' or 'right', got 'up'",
    "objective.bound=miwae(num_groups=2) objective.num_samples=5": "must divide num_samples = 5",
    "objective.bound=cubo": "set objective.inference_bound to it",
    "objective.inference_bound=cubbo": "did you mean 'cubo'",
    "objective.inference_bound=cubo objective.gradient=wake_phi": "follows no bound",
    "objective.free_bits=0.1": "use closed_form_kl",
    "training.parameters=phi": "unknown 'phi' (legal: all, generative, inference)",
    "model.name=vaee": "unknown 'vaee'",
    "model.latent_dims=()": "at least one stochastic layer",
    "model.latent_dims=(2,2)": "one tuple per stochastic layer",
    "model.latent_dims=(0,)": "must be at least 1",
    "model.name=linear_gaussian model.latent_dim=0": "at least 1",
    "dataset.binarization=none": "a Bernoulli likelihood needs 0 or 1",
    "dataset.num_validation=0 training.patience=3": "early stopping needs",
    "optimizer.schedule=staged": "stage_epochs and stage_scales of one length",
    "optimizer.schedule=staged optimizer.stage_epochs=(1,2) optimizer.stage_scales=(1,1)": (
        "must add up to training.num_epochs"
    ),
    "seed=-1": ">= 0",
    "training.ema_decay=1.0": "< 1.0",
}


@pytest.mark.parametrize("text", BAD_VALUES)
def test_bad_values_are_named_on_one_line(text):
    overrides = dict(item.split("=", 1) for item in text.split(" "))
    with pytest.raises(UserError) as caught:
        config_lib.override_all(config_lib.Config(), overrides)
    message = str(caught.value)
    assert BAD_VALUES[text] in message
    assert message.startswith("config")
    assert "\n" not in message


BAD_FILES = {
    "missing.py": (None, "unknown"),
    "syntax.py": ("def get_config(:", "SyntaxError"),
    "raises.py": ("def get_config():\n    return 1 / 0", "ZeroDivisionError"),
    "nothing.py": ("x = 1", "get_config"),
    "dictionary.py": ("def get_config():\n    return {}", "must return vaejax.config.Config"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_config_files_are_named(name, tmp_path):
    text, expected = BAD_FILES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        config_lib.load(str(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize("argument", ["vea", "L=3", "k=many", "stages=0"])
def test_bad_config_arguments_are_named(argument):
    with pytest.raises(UserError, match="--config argument"):
        config_lib.load(f"{ROOT}/configs/mnist_iwae_paper.py:{argument}")


def test_paper_protocol_is_the_papers():
    config = config_lib.load(f"{ROOT}/configs/mnist_iwae_paper.py:iwae,L=2,k=5")
    assert config.training.num_epochs == 3280
    assert config.optimizer.stage_scales == (10.0, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1.0)
    assert (config.objective.bound, config.objective.num_samples) == ("iwae", 5)
    assert config.model.latent_dims == (100, 50)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_trains_two_steps(path):
    """On the digits where the config's own data may be absent."""
    overrides = {"dataset.name": "digits", "dataset.num_validation": 10, "training.batch_size": 8}
    if "paper" in path.stem:
        overrides |= {"objective.num_samples": 3, "model.hidden_dims": ((9, 9),)}
    config = config_lib.override_all(config_lib.load(str(path)), overrides)
    data = splits.training_data(config)
    model = runs.build_model(config, data.spec)
    plan = training.Plan(2, 2, 2)
    state, metrics = jax.jit(
        lambda images: training.train_call(
            training.init_state(config, model=model), images, config=config, model=model, plan=plan
        )
    )(data.images[:16])
    assert int(state.step) == 2
    chex.assert_tree_all_finite(state.params)
    assert metrics["elbo"].shape == (2,)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_states_its_command(path: pathlib.Path):
    docstring = path.read_text().split('"""')[1]
    assert f"--config=configs/{path.name}" in docstring
