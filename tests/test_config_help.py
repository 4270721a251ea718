"""--help_config and --dry_run: what the command line knows of a config and of a run."""

import re

import jax
import pytest
from conftest import small_config
from run_script import run_script

from vaejax import schema
from vaejax.config import Config, override
from vaejax.errors import UserError
from vaejax.experiment import config_help, dry_run
from vaejax.training import programs
from vaejax.training import step as training


def _lines(word="", given=(), config=None, file="my.py"):
    config = small_config() if config is None else config
    return config_help.lines(config, file=file, given=given, word=word)


def test_every_key_is_listed_with_meaning_type_and_value():
    text = "\n".join(_lines())
    for path, value, item in schema.leaves(small_config()):
        block = text[text.index(f"  {path} = ") :].splitlines()
        assert config_help.text(value) in block[0]
        assert item.metadata["doc"] in block[1]
        assert config_help.legal(item) in block[2]
        assert item.metadata["doc"]


def test_a_word_chooses_by_name_or_meaning_in_any_case():
    found = [line for line in _lines("BETA") if line.startswith("  o")]
    assert [line.split()[0] for line in found] == ["objective.beta", "objective.warmup_epochs"]
    assert _lines("beta")[0] == "objective: What training maximises."
    with pytest.raises(UserError, match=r"no key has 'betta' .* did you mean 'beta'"):
        _lines("betta")


def test_where_a_value_was_set():
    config = override(small_config(), "objective.beta", 4.0)
    origin = lambda path: config_help.origin(config, path, file="my.py", given=["objective.beta"])
    assert origin("objective.beta") == "command line"
    assert origin("training.num_epochs") == "my.py"
    assert origin("optimizer.b1") == "default"
    assert config_help.origin(Config(), "seed", file=None, given=()) == "default"


def test_ranges_and_names_stand_there():
    legal = {path: config_help.legal(item) for path, _, item in schema.leaves(Config())}
    assert legal["optimizer.b1"] == "a number, from 0 below 1"
    assert legal["dataset.levels"] == "a whole number, from 2 to 256"
    assert "renyi(alpha=0.5)" in legal["objective.bound"]
    assert legal["training.patience"] == "a whole number or none, from 1"


def test_values_are_written_as_a_command_line_takes_them():
    config = Config()
    for path, value, _ in schema.leaves(config):
        again = schema.from_text(config, path, config_help.text(value))
        assert schema.replace(config, path, again) == config, path


@pytest.mark.slow
def test_a_dry_run_tells_what_training_would_do():
    config = small_config()
    text = "\n".join(dry_run.lines(config))
    setup = programs.set_up(config)
    state = training.init_state(config, model=setup.model)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert f"model: {count:,} parameters" in text
    assert f"train: {len(setup.data.images):,} images" in text
    assert f"({setup.plan.steps_per_epoch} steps)" in text
    parts = [int(n.replace(",", "")) for n in re.findall(r"\((?:theta|phi)\) ([\d,]+)", text)]
    assert sum(parts) == count
    seconds = re.search(r"time: ([\d.e-]+) ms a step, so about ([\d.e-]+) s an epoch", text)
    step, epoch = map(float, seconds.groups())
    assert epoch == pytest.approx(step / 1e3 * setup.plan.steps_per_epoch, rel=0.01)


@pytest.mark.slow
def test_neither_trains(tmp_path):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"]
    shown = run_script("train.py", *flags, "--config.objective.beta=4", "--help_config", "beta")
    assert shown.code == 0, shown.err
    assert "objective.beta = 4.0  (command line)" in shown.out
    assert "optimizer" not in shown.out
    shown = run_script("train.py", *flags, "--help_config")
    assert "training.num_epochs = 300  (configs/digits.py)" in shown.out
    shown = run_script("train.py", *flags[:1], "--dry_run")
    assert shown.code == 0, shown.err
    assert "encoder=mlp(hidden_dims=(128, 128)" in shown.out
    assert not list(tmp_path.iterdir())
    for given, message in (
        (flags[:1], "--workdir: needs a folder"),
        (flags[1:], "--config: needs"),
    ):
        refused = run_script("train.py", *given)
        assert refused.code == 2
        assert message in refused.err
    bad = run_script("train.py", *flags, "--dry_run", "--config.model.likelihood=normal")
    assert bad.code == 2
    assert "model.likelihood" in bad.err
