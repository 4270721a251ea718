"""Reading, checking, overriding and comparing configs."""

import dataclasses
import json
import pathlib

import chex
import jax
import numpy as np
import pytest
from conftest import ROOT, small_config

from vaejax import config as config_lib
from vaejax import consistency, python_files, schema
from vaejax.config import Config, Model, Objective, Training
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.models import latent_variable
from vaejax.objectives import requirements
from vaejax.parts import Part
from vaejax.training import programs
from vaejax.training import step as training
from vaejax.types import DataSpec

EXPLAIN = ROOT / "configs" / "explain.py"  # a config of its own kind: tests/test_explain.py
PAPERS = ROOT / "configs" / "papers"
CONFIG_FILES = sorted({*(ROOT / "configs").glob("*.py"), *PAPERS.glob("*.py")} - {EXPLAIN})


def test_text_is_parsed_by_type():
    config = config_lib.Config()
    cases = {
        "optimizer.learning_rate": ("1e-2", 0.01),
        "objective.num_samples": ("50", 50),
        "training.ema_decay": ("0.99", 0.99),
        "training.patience": ("none", None),
        "model.latent_dims": ("(100, 50)", (100, 50)),
        "optimizer.stage_epochs": ("3", (3,)),
        "dataset.data_dir": ("/some/where", "/some/where"),
        "dataset.name": ("mnist", "mnist"),
    }
    for path, (text, expected) in cases.items():
        value = config_lib.override(config, path, schema.from_text(config, path, text))
        for part in path.split("."):
            value = getattr(value, part)
        assert value == expected, path
        assert type(value) is type(expected), path


def test_parts_are_text_with_all_their_options_filled_in():
    config = config_lib.override_text(
        Config(),
        {
            "objective.bound": "renyi(alpha=1)",
            "objective.num_samples": "3",
            "model.latent_dims": "(3, 2)",
            "model.encoder": "mlp(hidden_dims=4), linear",
        },
    )
    assert config.objective.bound == Part("renyi", (("alpha", 1.0),), ("alpha",))
    assert [part.name for part in config.model.encoder] == ["mlp", "linear"]
    assert dict(config.model.encoder[0].options)["hidden_dims"] == (4,)
    assert config_lib.override(config, "objective.bound", "elbo()").objective.bound == Part("elbo")


def test_a_typed_config_may_hold_text_for_parts_and_numpys_numbers():
    config = config_lib.validated(
        Config(
            model=Model(latent_dims=[np.int64(4)], encoder="linear"),
            objective=Objective(bound="iwae", num_samples=np.int32(3), beta=np.float32(0.5)),
        )
    )
    assert config.model.latent_dims == (4,)
    assert config.objective == Objective(bound=Part("iwae"), num_samples=3, beta=0.5)


def test_numbers_are_leaves_and_all_else_is_structure():
    ours, other = Config(), config_lib.override_all(Config(), {"seed": 3, "objective.beta": 0.5})
    third = config_lib.override(ours, "model.latent_dims", (4,))
    structure = jax.tree.structure
    assert structure(ours) == structure(other) != structure(third)
    assert set(jax.tree.leaves(other)) - set(jax.tree.leaves(ours)) == {3, 0.5}
    doubled = jax.tree.map(lambda value: 2 * value, other)  # unflattening checks nothing
    assert doubled.objective.beta == 1.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(objective=Objective(allow_biased="false")), "needs true or false, got 'false'"),
        (Config(objective=Objective(num_samples="3")), "needs a whole number, got '3'"),
        (Config(objective=Objective(beta="0.5")), "needs a number, got '0.5'"),
        (Config(model={"latent_dims": 3}), "config.model: needs a"),
        (Config(model=Training()), "config.model: needs a"),
        (Config(objective=Objective(bound=3)), "needs name or name(option=value, ...)"),
    ],
)
def test_values_of_files_are_checked_as_strictly_as_flags(config, message):
    with pytest.raises(UserError) as caught:
        config_lib.validated(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_json_gives_back_the_same_config(path):
    config = config_lib.load(str(path))
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


def test_differences_name_the_keys():
    ours, theirs = small_config(seed=1), small_config(objective__beta=0.5)
    assert config_lib.differences(ours, theirs) == ["objective.beta: 1.0 != 0.5", "seed: 1 != 0"]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({}, {"training__num_epochs": 9}, True),
        ({}, {"dataset__data_dir": "/elsewhere", "evaluation__num_samples": 7}, True),
        ({}, {"training__checkpoint_seconds": 1.0}, True),
        ({"optimizer__schedule": "cosine"}, {"training__num_epochs": 9}, False),
        ({}, {"objective__bound": "renyi(alpha=0.4)"}, False),
        (
            {
                "optimizer__schedule": "staged",
                "optimizer__stage_epochs": (1, 2),
                "optimizer__stage_scales": (1.0, 0.5),
            },
            {
                "optimizer__stage_epochs": (1, 2, 4),
                "optimizer__stage_scales": (1.0, 0.5, 0.2),
                "training__num_epochs": 7,
            },
            True,
        ),
    ],
)
def test_what_may_change_between_launches(old, new, same):
    ours, theirs = small_config(**old | new), small_config(**old)
    assert (config_lib.differences(ours, theirs) == []) == same


def test_every_field_says_what_it_means():
    for node in (config_lib.Config(), *(vars(config_lib.Config()).values())):
        if not dataclasses.is_dataclass(node):
            continue
        for field in dataclasses.fields(node):
            if field.default_factory is dataclasses.MISSING:
                assert field.metadata.get("doc"), field.name


BAD_VALUES = {
    "optimizer.learning_rat=1": "did you mean 'optimizer.learning_rate'",
    "learning_rate=1": "did you mean",
    "optimiser.learning_rate=1": "did you mean 'optimizer.learning_rate'",
    "optimizer.learning_rate=fast": "needs a number, got 'fast'",
    "optimizer.learning_rate=-1": "must be finite and >= 0.0, got -1.0",
    "optimizer.learning_rate=nan": "needs a number",
    "optimizer.learning_rate=1e-50": "1e-50 is 0 in float32",
    "optimizer.learning_rate=1e60": "is infinite in float32",
    "training.num_epochs=1e26": "must be finite and >= 1 and <= 2147483647, got 1",
    "evaluation.num_samples=1e21": "<= 2147483647",
    "training.batch_size=1" + 400 * "0": "got a huge number",
    "optimizer.b1=1": "< 1.0, got 1.0",
    "objective.num_samples=2.5": "needs a whole number, got 2.5",
    "objective.num_samples=0": ">= 1 and <= 2147483647, got 0",
    "objective.num_samples=true": "needs a whole number",
    "objective.bound=iwea": "did you mean 'iwae'",
    "objective.gradient=closed_form_kl objective.bound=iwae": "form of the elbo alone",
    "objective.bound=iwae objective.gradient=stl": "biased for every bound but the elbo",
    "objective.bound=vr_max objective.gradient=doubly_reparameterized": "has a kink",
    "objective.bound=renyi(alpha=-1.0)": "lies above log p(x)",
    "objective.bound=renyi(alpha=inf)": "needs name or name(option=value, ...)",
    "objective.bound=renyi(alpha=1e60)": "needs a value like 0.5, got 1e+60",
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
    "objective.bound=iwae objective.gradient=sumo objective.beta=0.5": "leave out beta",
    "objective.bound=iwae objective.gradient=sumo objective.warmup_epochs=2": "leave out beta",
    "training.parameters=phi": "unknown 'phi' (legal: all, generative, inference)",
    "model.name=mlp": "unknown 'model.name'",
    "model.likelihood=bernouli": "did you mean 'bernoulli'",
    "model.latent_dims=()": "at least one stochastic layer",
    "model.latent_dims=(2,2,2) model.encoder=mlp,mlp": (
        "one network for each stochastic layer (3), or one for all, got 2"
    ),
    "model.hierarchy=topdown": "'top_down'",
    "model.hierarchy=top_down(features=0)": "features: must be in 1..1048576, got 0",
    "model.hierarchy=top_down(merge='precission')": "'precision'",
    "model.hierarchy=top_down(downsampling=(2,1,4)) model.latent_dims=(2,2,2)": (
        "must not fall from the data upwards"
    ),
    "model.hierarchy=top_down(downsampling=(0,2)) model.latent_dims=(2,2)": (
        "must not fall from the data upwards"
    ),
    "model.hierarchy=top_down(downsampling=(1,2)) model.latent_dims=(2,2,2)": (
        "one number for each stochastic layer (3)"
    ),
    "model.hierarchy=top_down(downsampling=(4,)) model.posterior=full_normal": (
        "use posterior=normal, or downsampling=0"
    ),
    "model.hierarchy=top_down(merge='precision') model.latent_dims=(2,2) "
    "model.posterior=full_normal": "needs posterior=normal",
    "model.latent_dims=(0,)": "must be finite and >= 1",
    "model.latent_dims=1000000000": "<= 1048576",
    "model.encoder=mlp(hidden_dims=(0,))": "every width must be in 1..1048576",
    "model.encoder=mlp(activation='tahn')": "did you mean 'tanh'",
    "model.encoder=mlp(hidden_dims='wide')": "needs a value like (200, 200), got 'wide'",
    "model.posterior=full_normal model.latent_dims=5000": "at most 4,096 latents",
    "optimizer.stage_epochs=3": "has no effect with schedule='constant'",
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
        config_lib.override_text(config_lib.Config(), overrides)
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
    "exits.py": ("import sys\ndef get_config():\n    sys.exit(0)", "SystemExit"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_config_files_are_named(name, tmp_path):
    text, expected = BAD_FILES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        config_lib.load(str(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        *("vea", "L=3", "k=many", "stages=0", "vae,iwae", "short=1"),
        *("short,stages=3", "short,continued", "stages=3,continued"),
    ],
)
def test_bad_config_arguments_are_named(argument):
    with pytest.raises(UserError, match="--config argument"):
        config_lib.load(f"{PAPERS}/iwae_table1.py:{argument}")


def test_paper_protocol_is_the_papers():
    config = config_lib.load(f"{PAPERS}/iwae_table1.py:iwae,L=2,k=5")
    assert config.training.num_epochs == 3280
    assert (config.dataset.name, config.dataset.num_validation) == ("mnist", 0)
    assert config.optimizer.stage_scales == (10.0, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1.0)
    assert (config.objective.bound, config.objective.num_samples) == (Part("iwae"), 5)
    assert config.model.latent_dims == (100, 50)


def test_short_protocol_differs_in_length_alone():
    full = config_lib.load(f"{PAPERS}/iwae_table1.py:vae,k=5")
    short = config_lib.load(f"{PAPERS}/iwae_table1.py:short,vae,k=5")
    assert (short.model, short.objective) == (full.model, full.objective)
    assert (short.training.num_epochs, short.optimizer.schedule) == (400, "cosine")
    assert short.dataset.num_validation == 5000  # what its rate is chosen on


@pytest.mark.parametrize(("data", "folder"), [("", "iwae_table1"), (",static", "iwae_static")])
def test_cells_are_continued_from_the_short_run_of_their_seed(data, folder):
    short = config_lib.load(f"{PAPERS}/iwae_table1.py:short,vae,k=1{data}")
    cell = config_lib.load(f"{PAPERS}/iwae_table1.py:continued,iwae,k=50{data}")
    assert cell.training.start_from == f"runs/{folder}/vae-1,seed={{seed}}"
    assert (cell.model, cell.dataset) == (short.model, short.dataset)
    assert (cell.optimizer.learning_rate, cell.optimizer.schedule) == (1e-4, "cosine")
    assert (cell.training.num_epochs, cell.training.batch_size) == (30, 20)


def test_static_images_come_with_their_own_validation():
    dataset = config_lib.load(f"{PAPERS}/iwae_table1.py:static,short").dataset
    assert (dataset.name, dataset.validation_split) == ("binarized_mnist", "validation")
    assert (dataset.binarization, dataset.num_validation) == ("none", 0)


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        (Objective(bound="jackknife", num_samples=8), "objective.bound: jackknife"),
        (Objective(bound="iwae", inference_bound="cubo", num_samples=8), "objective.inference"),
        (Objective(bound="jackknife", inference_bound="iwae", num_samples=8), None),
        (Objective(bound="jackknife", gradient="wake_phi", num_samples=8), None),
        (Objective(bound="vr_max", num_samples=8), None),
        (Objective(), None),
    ],
)
def test_objectives_without_a_best_q_are_warned_of(objective, key):
    config = config_lib.validated(Config(objective=objective))
    said = consistency.warnings(config)
    assert len(said) == (key is not None)
    assert all(text.startswith(key) for text in said)
    frozen = dataclasses.replace(config.training, parameters="generative")
    assert not consistency.warnings(dataclasses.replace(config, training=frozen))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("optimizer.final_scale=0.1", "optimizer.final_scale: has no effect with schedule='const"),
        ("optimizer.final_scale=0.1 optimizer.schedule=cosine", None),
        ("dataset.binarization=threshold dataset.binarization_seed=1", "dataset.binarization_seed"),
        ("dataset.binarization=static dataset.binarization_seed=1", None),
        ("dataset.num_validation=0 training.validate_every=2", "training.validate_every: has no"),
        ("dataset.num_validation=0 training.validation_samples=2", "training.validation_samples"),
        ("training.validate_every=2 training.validation_samples=2", None),
        (
            "training.num_epochs=40 objective.warmup_epochs=80 objective.beta=0.5",
            "beta ends at 0.25",
        ),
        ("training.num_epochs=40 objective.warmup_epochs=40", None),
    ],
)
def test_what_has_no_effect_or_too_little_time_is_said(given, said):
    config = config_lib.override_text(Config(), dict(item.split("=") for item in given.split()))
    found = consistency.warnings(config)
    assert len(found) == (said is not None)
    assert all(said in text for text in found)


QUICK_CONFIGS = ("digits", "linear_gaussian")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=() if path.stem in QUICK_CONFIGS else pytest.mark.slow
        )
        for path in CONFIG_FILES
    ],
)
def test_every_config_trains_two_steps(path):
    """On the digits where the config's own data may be absent."""
    overrides = {"dataset.name": "digits", "dataset.num_validation": 10, "training.batch_size": 8}
    if path.parent == PAPERS:
        overrides |= {"model.encoder": "mlp(hidden_dims=(9, 9))"}
        overrides |= {"dataset.validation_split": None, "dataset.binarization": "dynamic"}
        if config_lib.load(str(path)).objective.num_samples > 3:
            overrides["objective.num_samples"] = 3
    config = config_lib.override_all(config_lib.load(str(path)), overrides)
    data = splits.training_data(config)
    model = latent_variable.build(config.model, data.spec)
    plan = training.Plan(2, 2, 2)
    state, metrics = jax.jit(
        lambda images: training.train_call(
            training.init_state(config, model=model), images, config=config, model=model, plan=plan
        )
    )(data.images[:16])
    assert int(state.step) == 2
    chex.assert_tree_all_finite(state.params)
    assert metrics["elbo"].shape == (2,)


IMAGES = {"cifar10": (32, 32, 3), "digits": (8, 8, 1)}


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_builds_for_images_of_its_own(path):
    """Of their shape, 28 x 28 grey but for those named: x of p(x|z) has it. Nothing is computed."""
    config = config_lib.load(str(path))
    spec = DataSpec(IMAGES.get(config.dataset.name, (28, 28, 1)), None, config.dataset.levels)
    model = latent_variable.build(config.model, spec)

    def draw(key):
        params = model.init(key)
        x = model.likelihood(params, model.prior(params).sample(key)).sample(key)
        return x, model.posterior(params, x).sample(key)

    x, _ = jax.eval_shape(draw, jax.random.key(0))
    assert x.shape == spec.shape


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_states_its_command(path: pathlib.Path):
    docstring = path.read_text().split('"""')[1]
    assert f"--config={path.relative_to(ROOT)}" in docstring


def test_a_path_of_a_config_file_may_hold_a_colon(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    text = "from vaejax.config import Config\nget_config = lambda arg='0': Config(seed=int(arg))"
    (folder / "c.py").write_text(text)
    assert config_lib.load(str(folder / "c.py")).seed == 0
    assert config_lib.load(f"{folder}/c.py:7").seed == 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset__binarization": "none"}, "bernoulli needs 0 or 1"),
        ({"model__likelihood": "normal"}, "is a density, and x is 0 or 1"),
        (
            {
                "objective__gradient": "closed_form_kl",
                "model__latent_dims": (3, 2),
                "model__encoder": "mlp, mlp",
            },
            "needs a closed form of KL",
        ),
    ],
)
def test_what_does_not_fit_the_data_or_the_model_is_refused_before_training(overrides, message):
    with pytest.raises(UserError) as caught:
        programs.set_up(small_config(**overrides))
    assert message in str(caught.value)


@pytest.mark.parametrize("path", ["seed", "dataset.binarization", "model.latent_dims"])
def test_values_that_python_cannot_write_are_refused_on_a_short_line(path):
    for value in (10**5000, (10**5000,), [[10**5000]], np.full((2, 2), 0.5), "x" * 9999):
        with pytest.raises(UserError) as error:
            config_lib.override(config_lib.Config(), path, value)
        assert len(str(error.value).splitlines()) == 1
        assert len(str(error.value)) < 500


def test_text_is_read_without_the_warnings_of_python(recwarn):
    for text in ("1if", "(\\d)", "renyi(0if"):
        with pytest.raises(UserError):
            config_lib.override_text(config_lib.Config(), {"model.latent_dims": text})
        with pytest.raises(UserError):
            config_lib.override_text(config_lib.Config(), {"objective.bound": text})
    assert not recwarn.list


@pytest.mark.slow
def test_every_member_of_the_sweep_over_discrete_latents_trains_two_steps():
    """Of the belief network that it is for, on the digits."""
    overrides = {"dataset.name": "digits", "dataset.num_validation": 10, "training.batch_size": 8}
    base = config_lib.override_all(
        config_lib.load(f"{ROOT}/configs/mnist_sbn.py"), overrides | {"model.latent_dims": (6, 4)}
    )
    data = splits.training_data(base)
    members = python_files.call(f"{ROOT}/configs/sweeps/discrete.py", "get_sweep", flag="--sweep")
    assert len({member["name"] for member in members}) == len(members) == 6
    for member in members:
        own = {key: value for key, value in member.items() if key != "name"}
        config = config_lib.override_all(base, own)
        model = latent_variable.build(config.model, data.spec)
        assert requirements.problems(config.objective.gradient, model) == []
        options = {"config": config, "model": model, "plan": training.Plan(2, 2, 2)}
        state, metrics = jax.jit(
            lambda images, options=options: training.train_call(
                training.init_state(options["config"], model=options["model"]), images, **options
            )
        )(data.images[:16])
        chex.assert_tree_all_finite((state.params, metrics["elbo"]))
