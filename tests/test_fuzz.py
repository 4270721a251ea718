"""A seeded fuzz: whatever stands in flags and files, nothing comes out but one line.

1,000 cases in all, the same ones each time. A case passes where the value is taken, or refused
with a UserError of one line, and where nothing warns on the way.
"""

import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
import warnings

import jax
import numpy as np
import pytest
from absl import flags
from conftest import small_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from vaejax import config as config_lib
from vaejax import parts, schema
from vaejax.comparison import csv_table, read, report
from vaejax.comparison.report import Comparable
from vaejax.comparison.statistics import Setting
from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.explain import config as explain_config
from vaejax.explain import run as explain_run
from vaejax.models import networks
from vaejax.objectives import bounds
from vaejax.runs import evaluate, files
from vaejax.storage import arrays, json_files, workdir
from vaejax.storage import files as storage_files
from vaejax.sweeps import launch
from vaejax.sweeps import members as sweeps
from vaejax.training import records, train

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)


def cases(count):
    """`count` cases, the same ones each time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def refusal(**context):
    """Lets a UserError of one line through, and nothing else: no other error, no warning."""
    with warnings.catch_warnings(record=True, action="always") as told:
        try:
            yield
        except UserError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1, (lines, context)
            assert len(lines[0]) < 5000, (len(lines[0]), context)
            lines[0].encode("utf-8")
    assert not told, ([str(item.message) for item in told], context)


PATHS = [path for path, _, _ in schema.leaves(config_lib.Config())]
WORDS = [
    "renyi(alpha=0.5)", "renyi(alpha=nan)", "iwae", "elbo()", "cubo(order=1e999)",
    "mlp(hidden_dims=(8,))", "mlp(hidden_dims=()), linear", "normal(shared_scale=1)", "none",
    "None", "true", "FALSE", "nan", "inf", "-inf", "1e400", "1e-400", "-0.0", "0x10", "1_000",
    "(1,)", "(1, 2", "[3]", "{}", "()", "1e3", "3.0", "1j", "b'a'", "'a'", "staged", "highest",
    "9223372036854775808", "\\d", "1if", "(1)(2)", "renyi(**{})", "renyi(alpha=1, alpha=2)",
    "a\x00b", "\ud800",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=30),
    st.text("()[]{},.='\"\\0123456789eE+-jxna ", max_size=25),
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.floats().map(repr),
    st.integers(1, 6000).map(lambda n: "9" * n),
    st.integers(1, 6000).map(lambda n: "0x" + "f" * n),
    st.integers(1, 3000).map(lambda n: "(" * n),
    st.integers(1, 3000).map(lambda n: "-" * n + "1"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**400), 2**63, 2**31, 0, -1, 1e308, -0.0, 1e-45]),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
STRANGE = st.one_of(
    VALUES,
    st.binary(max_size=5),
    st.complex_numbers(),
    st.sampled_from([object, np.float32("nan"), np.int64(3), np.zeros(3), np.zeros((2, 0)), {1}]),
    st.sampled_from([np.float64(1e300), np.str_("elbo"), np.bool_(True), range(3), (1, "a"), ...]),
    st.lists(SCALARS, max_size=3).map(tuple),
)
KEYS = st.one_of(st.sampled_from(PATHS), TEXTS, st.sampled_from(PATHS).map(lambda p: p[:-1]))


def is_sound(config):
    """What is accepted can be written, read again, hashed and compared."""
    text = storage_files.json_text(config_lib.to_dict(config))
    assert config_lib.from_dict(json.loads(text)) == config
    assert config_lib.differences(config, config_lib.Config()) is not None
    hash(jax.tree.structure(config))


@cases(200)
@given(st.dictionaries(KEYS, TEXTS, min_size=1, max_size=3))
def test_override_text(overrides):
    with refusal(overrides=overrides):
        is_sound(config_lib.override_text(small_config(), overrides))


FORMS = ("--config.{}={}", "-config.{}={}", "--config.{} {}", "--config.{}", "--noconfig.{}")


@cases(100)
@given(st.lists(st.tuples(st.sampled_from(FORMS), KEYS, TEXTS), min_size=1, max_size=3))
def test_flags(given_):
    arguments = [
        word for form, key, text in given_ for word in form.format(key, text).split(" ", 1)
    ]
    own = flags.FlagValues()
    flags.DEFINE_multi_string("config_override", [], "", flag_values=own)
    own.set_gnu_getopt()
    with refusal(arguments=arguments), contextlib.suppress(flags.Error):
        cli._parse(["train.py", *arguments], own)
        found = {}
        for assignment in own["config_override"].value:
            path, equals, value = assignment.partition("=")
            found[path] = value if equals else None
        is_sound(config_lib.validated(cli.override(small_config(), found)))
        schema.checked(cli.override(explain_config.Config(), found))


REGISTRIES = [bounds.FUNCTIONS, networks.NETWORKS]


@cases(100)
@given(
    st.sampled_from(REGISTRIES),
    TEXTS
    | st.tuples(st.sampled_from(["renyi", "cubo", "mlp", "iwae"]), TEXTS, TEXTS).map(
        lambda t: f"{t[0]}({t[1]}={t[2]})"
    )
    | st.tuples(st.sampled_from(["renyi(alpha", "mlp(hidden_dims", "cubo(order"]), TEXTS).map(
        lambda t: f"{t[0]}={t[1]})"
    ),
)
def test_parts(registry, text):
    with refusal(text=text):
        part = parts.parse(text, registry, path="config.part")
        assert parts.parse(str(part), registry, path="config.part") == part
        hash(part)


def _put(node, path, value):
    """`node` with a leaf of any type, as a config file may make it."""
    copied = copy.deepcopy(node)
    *above, name = path.split(".")
    section = copied
    for step in above:
        section = getattr(section, step)
    object.__setattr__(section, name, value)
    return copied


@cases(150)
@given(
    st.dictionaries(
        st.sampled_from([*PATHS, "model", "dataset", "training"]), STRANGE, min_size=1, max_size=2
    )
)
def test_values_of_config_files(values):
    config = small_config()
    for path in sorted(values, key=len, reverse=True):
        config = _put(config, path, values[path])
    with refusal(values=values):
        is_sound(config_lib.validated(config))


@cases(60)
@given(st.lists(st.dictionaries(KEYS | st.just("name"), STRANGE, max_size=3) | STRANGE, max_size=4))
def test_sweep_files(tmp_path_factory, items):
    with refusal(items=items):
        found = sweeps.members(small_config(), sweeps.checked(items, "sweep.py"))
        assert sweeps.groups(found)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A trained and evaluated run."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    train.train(small_config(training__num_epochs=2), folder, console=QUIET)
    evaluate.evaluate(folder, console=QUIET)
    return folder


def _mutated(document, seed, value):
    """`document` with one to three of its nodes replaced, removed or added to."""
    rng, document = random.Random(seed), copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        node, chain = document, []
        while isinstance(node, (dict, list)) and node and (rng.random() < 0.8 or not chain):
            key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
            chain.append((node, key))
            node = node[key]
        if not chain:
            return value
        parent, key = chain[-1]
        if rng.random() < 0.2:
            del parent[key]
        elif rng.random() < 0.1 and isinstance(parent, dict):
            parent["new"] = copy.deepcopy(value)
        else:
            parent[key] = copy.deepcopy(value)
    return value if rng.random() < 0.03 else document


def _bytes(document, seed, value):
    """Its JSON, sometimes cut, flipped or followed by something."""
    rng = random.Random(seed + 1)
    content = json.dumps(_mutated(document, seed, value)).encode()
    if rng.random() < 0.15:
        content = content[: rng.randrange(len(content) + 1)]
    if rng.random() < 0.15 and content:
        place = rng.randrange(len(content))
        content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    return content + (b"{" if rng.random() < 0.05 else b"")


SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def folder(run_folder, tmp_path_factory):
    """A copy whose files the cases replace, one at a time."""
    return shutil.copytree(run_folder, tmp_path_factory.mktemp("changed") / "run")


@contextlib.contextmanager
def replaced(path, content):
    """`path` holds `content` for as long as this lasts."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def read_for_comparison(folder):
    """Reads a run as compare.py does, and says what it found."""
    found = read.run(folder, "run")
    if {"elbo"} <= {*found.values}:
        table = Comparable([Setting("run", [found])], None)
        csv_table.text([table])
        report.markdown([table], [], [])


@cases(90)
@given(seed=SEEDS, value=VALUES)
def test_config_json(folder, seed, value):
    path = folder / "config.json"
    content = _bytes(json.loads(path.read_bytes()), seed, value)
    with replaced(path, content):
        with refusal(content=content):
            is_sound(workdir.read_config(folder))
        with refusal(content=content):
            read_for_comparison(folder)


@cases(90)
@given(seed=SEEDS, value=VALUES)
def test_evaluation_json(folder, seed, value):
    path = folder / "evaluation.json"
    content = _bytes(json.loads(path.read_bytes()), seed, value)
    with replaced(path, content):
        with refusal(content=content):
            files.read(path)
        with refusal(content=content):
            evaluate.is_evaluated(folder, small_config(), "test")
        with refusal(content=content):
            read_for_comparison(folder)


@cases(60)
@given(seed=SEEDS, value=VALUES)
def test_metrics_jsonl(folder, seed, value):
    path, rng = folder / "metrics.jsonl", random.Random(seed)
    lines = path.read_bytes().splitlines()
    index = rng.randrange(len(lines))
    lines[index] = _bytes(json.loads(lines[index]), seed, value)
    content = b"\n".join(lines)
    with replaced(path, content):
        with refusal(content=content):
            json_files.read_metrics(path)
        with refusal(content=content):
            records.seconds_spent(folder, 10)
        with refusal(content=content):
            read_for_comparison(folder)


@cases(50)
@given(seed=SEEDS, value=VALUES)
def test_groups_json_and_failed_json(folder, seed, value):
    items = sweeps.members(small_config(), [{"seed": 0}, {"seed": 1}])
    groups = _bytes([["seed=0", "seed=1"]], seed, value)
    failed = _bytes({"step": 3, "error": "it diverged", "retry": "remove it"}, seed, value)
    member = folder / "seed=0"
    member.mkdir(exist_ok=True)
    with replaced(folder / "groups.json", groups), replaced(member / "failed.json", failed):
        with refusal(groups=groups):
            read.expand([str(folder)], QUIET)
        with refusal(failed=failed):
            launch._result(items[0], folder, None)
        with refusal(groups=groups):
            launch._groups(items, folder)


@cases(50)
@given(seed=SEEDS, value=VALUES)
def test_explain_json(folder, seed, value):
    entry = {
        "question": "Why?",
        "headline": "0 nat",
        "seed": 0,
        "seconds": 1.5,
        "config": {"num_examples": 2},
        "numbers": {"elbo_nats": -1.0, "rows": [1.0, 2.0], "deep": {"kl_nats": 2}},
        "sentences": ["One.", "Two."],
        "figures": [{"file": "figures/samples.png", "caption": "a"}],
    }
    content = _bytes({"identity": entry, "other": entry}, seed, value)
    with replaced(folder / "explain.json", content), refusal(content=content):
        entries = explain_run.read(folder)
        explain_run.publish(folder, explain_run._in_order(entries), {})


@cases(50)
@given(seed=SEEDS, tied=st.booleans())
def test_flipped_and_cut_npz(folder, seed, tied):
    """Where the JSON has the hash of the broken file, too, reading must notice itself."""
    rng, path = random.Random(seed), folder / "evaluation.npz"
    content = bytearray(path.read_bytes())
    if rng.random() < 0.2:
        buffer = io.BytesIO()
        kinds = [np.zeros(3), np.array("a"), np.zeros((2, 2), complex), np.full(360, np.nan)]
        names = ("value/elbo", "mc_variance/elbo", "value/iwae_20", "mc_variance/iwae_20")
        np.savez(buffer, **{name: rng.choice(kinds) for name in names})
        content = bytearray(buffer.getvalue())
    for _ in range(rng.randint(0, 3)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    value = json.loads((folder / "evaluation.json").read_bytes())
    if tied:
        value["arrays_sha256"] = hashlib.sha256(content).hexdigest()
    with (
        replaced(path, bytes(content)),
        replaced(folder / "evaluation.json", json.dumps(value).encode()),
    ):
        with refusal(seed=seed):
            arrays.read_npz(path)
        with refusal(seed=seed):
            files.read(folder / "evaluation.json")
        with refusal(seed=seed):
            read_for_comparison(folder)
