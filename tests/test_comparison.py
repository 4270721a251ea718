"""Comparisons: paired differences against oracles, protocols, files and the page."""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from run_script import run_script

from vaejax.comparison import report as comparison_report
from vaejax.comparison import statistics as comparison
from vaejax.comparison.statistics import Run, Setting
from vaejax.errors import UserError

NUM_EXAMPLES = 40
DATASET_KEYS = ("num_validation", "train_split", "name", "binarization", "binarization_seed")
SWEEP = "get_sweep = lambda: [{'name': 'k1'}, {'name': 'k2', 'objective.num_samples': 2}]"


def make_run(name="a", *, shift=0.0, noise=0.0, seed=0, rate=0.1):
    """A run whose ELBO of example i is h_i + shift + noise_i, and whose L_20 is 1 higher."""
    hard = 10.0 * np.random.default_rng(0).normal(size=NUM_EXAMPLES)
    own = noise * np.random.default_rng(1000 * seed + zlib.crc32(name.encode()) % 997).normal(
        size=NUM_EXAMPLES
    )
    elbo = -30.0 + hard + shift + own
    values = {"elbo": elbo, "kl": elbo, "iwae_1": elbo, "iwae_5": elbo + 0.5, "iwae_20": elbo + 1.0}
    variances = {key: np.full(NUM_EXAMPLES, 0.01) for key in values}
    stamp = {
        "dataset": "digits",
        "split": "test",
        "num_examples": NUM_EXAMPLES,
        "binarization": "fixed (seed 0)",
        "data_sha256": "abc",
        "num_samples": 20,
        "seed": 0,
        "dtype": "float32",
    }
    config = {
        "seed": seed,
        "dataset": dict.fromkeys(DATASET_KEYS, 0),
        "optimizer": {"learning_rate": rate},
        "training": {"batch_size": 10, "validation_samples": 7},
        "objective": {"num_samples": 2},
    }
    estimates = {key: {"value": float(value.mean())} for key, value in values.items()}
    result = {"protocol": stamp, "estimates": estimates}
    metrics = [
        {"step": step, "epoch": step / 2, "seconds": step * 0.5, "validation/iwae": -9.0 + step}
        for step in (1, 2, 3)
    ]
    return Run(name, config, result, values, variances, metrics)


def test_a_paired_difference_does_not_see_what_both_runs_find_hard():
    left, right = Setting("a", [make_run("a")]), Setting("b", [make_run("b", shift=0.2)])
    delta = comparison.difference(right, left, "elbo")
    assert delta.value == pytest.approx(0.2)
    assert delta.data_se == pytest.approx(0.0, abs=1e-12)
    assert delta.seed_se is None
    assert delta.mc_se == pytest.approx(np.sqrt(2 * 0.01 / NUM_EXAMPLES))
    assert comparison.estimate(left, "elbo").data_se > 1.0
    assert delta.significant
    assert comparison_report.verdict(delta) == "higher"


def test_paired_errors_are_those_of_the_per_example_differences():
    first, second = make_run("a", noise=1.0), make_run("b", noise=2.0, seed=1)
    delta = comparison.difference(Setting("b", [second]), Setting("a", [first]), "iwae_20")
    expected = second.values["iwae_20"] - first.values["iwae_20"]
    assert delta.value == pytest.approx(expected.mean())
    assert delta.data_se == pytest.approx(expected.std(ddof=1) / np.sqrt(NUM_EXAMPLES))


def test_a_difference_within_two_errors_is_not_claimed():
    """Coverage: of 400 null differences about 5 in 100 exceed two errors."""
    rng, claimed = np.random.default_rng(5), 0
    for _ in range(400):
        delta = rng.normal(size=NUM_EXAMPLES)
        item = comparison.Difference(delta.mean(), comparison.mean_error(delta), None, None)
        claimed += item.significant
    assert 0.02 < claimed / 400 < 0.10
    small = comparison.Difference(-0.19, 0.1, None, None)
    assert comparison_report.verdict(small) == "within 2 errors"
    assert comparison_report.verdict(small._replace(value=-0.21)) == "lower"
    # The same difference with an error over seeds is no longer one.
    assert not small._replace(value=-0.21, seed_se=0.1).significant


def test_seeds_are_averaged_and_their_error_is_added():
    ours = Setting("b", [make_run("b", shift=s, seed=i) for i, s in enumerate((0.1, 0.3, 0.5))])
    theirs = Setting("a", [make_run("a", shift=s, seed=i) for i, s in enumerate((0.0, 0.2))])
    delta = comparison.difference(ours, theirs, "elbo")
    assert delta.value == pytest.approx(0.2)
    assert delta.seed_se == pytest.approx(np.hypot(0.2 / np.sqrt(3), 0.1))
    assert delta.total_se == pytest.approx(delta.seed_se, abs=1e-12)
    assert not delta.significant


def test_runs_that_differ_in_their_seed_alone_are_one_setting():
    names = ("fast,seed=0", "slow", "fast,seed=1")
    found = comparison.settings(
        [make_run(n, seed=i, rate=0.2 if n == "slow" else 0.1) for i, n in enumerate(names)]
    )
    assert [(s.name, len(s.runs)) for s in found] == [("fast", 2), ("slow", 1)]


def _stamped(run, field):
    result = {**run.result, "protocol": run.result["protocol"] | {field: "other"}}
    return run._replace(result=result)


@pytest.mark.parametrize("field", comparison.PROTOCOL)
def test_protocols_that_differ_are_named(field):
    runs = [make_run("a"), _stamped(make_run("b"), field)]
    with pytest.raises(
        UserError, match=rf"cannot be compared: {field} is .* in a and 'other' in b"
    ):
        comparison.check_protocols(runs)
    assert [len(group) for group in comparison.protocol_groups(runs)] == [1, 1]


def test_budgets_count_decoder_evaluations():
    run = make_run("a")
    assert comparison.decoder_evaluations(run, 3) == 3 * 10 * 2
    cheap = run._replace(name="b", metrics=run.metrics[:2])
    parts = [Setting("a", [run]), Setting("b", [cheap])]
    assert comparison.equal_budget(parts, cost="decoder_evaluations") == (40.0, {"a": -7, "b": -7})
    assert comparison.equal_budget(parts, cost="seconds") == (1.0, {"a": -7, "b": -7})
    other = run._replace(config=run.config | {"training": {"validation_samples": 8}})
    assert "validation_samples" in comparison.budget_mismatch([run, other])


def test_tables_hold_every_bound_and_error():
    parts = [Setting("a", [make_run("a")]), Setting("b|<i>", [make_run("b", shift=0.2)])]
    rows = list(csv.DictReader(comparison_report.csv_text([(parts, parts[0])]).splitlines()))
    assert [(row["setting"], row["bound"]) for row in rows[:3]] == [
        ("a", "elbo"), ("a", "iwae_5"), ("a", "iwae_20"),
    ]  # fmt: skip
    assert {row["verdict"] for row in rows[3:]} == {"higher"}
    assert float(rows[3]["difference"]) == pytest.approx(0.2)
    text = comparison_report.markdown([(parts, parts[0])], ["A line."], ["bounds"])
    assert "| b\\|<i> | 1 |" in text
    page = comparison_report.page([(parts, parts[0])], [], {"bounds": ("L_k", b"png")})
    assert "b|&lt;i&gt;" in page
    assert "http" not in page


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two settings with two seeds, trained and evaluated as a sweep."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "sweep.py").write_text(SWEEP)
    finished = run_script(
        "sweep.py",
        "--config=configs/digits.py",
        "--config.model.latent_dims=(3,)",
        "--config.model.hidden_dims=((8,),)",
        "--config.training.batch_size=200",
        "--config.training.num_epochs=3",
        "--config.evaluation.num_samples=20",
        f"--sweep={folder / 'sweep.py'}",
        f"--workdir={folder / 'sweep'}",
        "--seeds=2",
    )
    assert finished.code == 0, finished.err
    return folder / "sweep"


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    finished = run_script(
        "compare.py", evaluated, f"--baseline={evaluated / 'k1,seed=0'}", f"--out={out}"
    )
    assert finished.code == 0, finished.err
    assert "K = 20" in finished.out
    return out


def test_the_report_agrees_with_the_evaluations(evaluated, report):
    rows = list(csv.DictReader((report / "comparison.csv").read_text().splitlines()))
    assert [row["setting"] for row in rows] == ["k1"] * 3 + ["k2"] * 3
    means = {
        name: np.mean(
            [
                json.loads((evaluated / f"{name},seed={seed}" / "evaluation.json").read_text())[
                    "estimates"
                ]["iwae_20"]["value"]
                for seed in (0, 1)
            ]
        )
        for name in ("k1", "k2")
    }
    assert float(rows[2]["value"]) == pytest.approx(means["k1"])
    assert float(rows[5]["difference"]) == pytest.approx(means["k2"] - means["k1"])
    assert {p.stem for p in (report / "figures").glob("*.png")} == {
        "bounds", "gaps", "training", "budget", "samples",
    }  # fmt: skip


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_works_in_a_browser_offline(report, tmp_path):
    """A click on "setting", twice, turns the rows round; every embedded figure decodes."""
    script = """
<script>addEventListener("load", () => {
  const button = document.querySelector("th button");
  button.click(); button.click();
  const names = [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent);
  const widths = [...document.images].map(image => image.naturalWidth);
  document.body.dataset.result = JSON.stringify({names, widths});
});</script></body>"""
    page = tmp_path / "page.html"
    page.write_text((report / "index.html").read_text().replace("</body>", script))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=5000"
    )
    finished = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-result="([^"]*)"', finished.stdout)
    assert found, finished.stderr[-500:]
    result = json.loads(found.group(1).replace("&quot;", '"'))
    assert result["names"] == ["k2", "k1"]
    assert len(result["widths"]) == 5
    assert min(result["widths"]) > 300


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


def _change_protocol(folder, **changes):
    path = folder / "evaluation.json"
    result = json.loads(path.read_text())
    result["protocol"] |= changes
    path.write_text(json.dumps(result))


BAD = {
    "no run": (lambda a, b: shutil.rmtree(b), [], "holds no run"),
    "no evaluation": (lambda a, b: (b / "evaluation.json").unlink(), [], "has no evaluation"),
    "broken values": (lambda a, b: (b / "evaluation.npz").write_bytes(b"x"), [], "cannot be read"),
    "broken result": (lambda a, b: (b / "evaluation.json").write_text("{"), [], "cannot be read"),
    "mixed datasets": (
        lambda a, b: _change_protocol(b, dataset="mnist"),
        [],
        "dataset is 'digits'",
    ),
    "other hash": (lambda a, b: _change_protocol(b, data_sha256="0"), [], "data_sha256 is"),
    "unknown baseline": (lambda a, b: None, ["--baseline=k3"], "--baseline: unknown 'k3'"),
    "given twice": (lambda a, b: shutil.copytree(b, a / "x"), ["TWICE"], "is given twice"),
    "nothing given": (lambda a, b: None, ["NOTHING"], "at least one folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_comparisons_take_one_line_and_lose_nothing(evaluated, tmp_path, case):
    change, more, sentence = BAD[case]
    first = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    second = shutil.copytree(evaluated / "k2,seed=0", tmp_path / "b")
    change(first, second)
    arguments = {"TWICE": [first, first], "NOTHING": []}.get((more or [""])[0], [first, second])
    flags = [flag for flag in more if flag.startswith("--")]
    before = _contents(tmp_path)
    finished = run_script("compare.py", *arguments, *flags, f"--out={tmp_path / 'report'}")
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
    assert _contents(tmp_path) == before


def test_force_prints_apart(evaluated, tmp_path):
    first = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    second = shutil.copytree(evaluated / "k2,seed=0", tmp_path / "b")
    _change_protocol(second, dataset="other")
    finished = run_script("compare.py", first, second, "--force", f"--out={tmp_path / 'report'}")
    assert finished.code == 0, finished.err
    assert "other test" in finished.out
    assert "Evaluated unlike" in finished.out
    rows = list(csv.DictReader((tmp_path / "report" / "comparison.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert {row["difference"] for row in rows} == {""}


def test_an_unwritable_report_folder_is_one_line(evaluated, tmp_path):
    (tmp_path / "file").write_text("kept")
    run = evaluated / "k1,seed=0"
    finished = run_script("compare.py", run, f"--out={tmp_path / 'file' / 'report'}")
    assert finished.code == 2
    assert "cannot write" in finished.err
    assert (tmp_path / "file").read_text() == "kept"
