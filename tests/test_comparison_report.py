"""Comparisons from the command line: the report, its page, files that are bad."""

import contextlib
import csv
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import browser
import numpy as np
import pytest
from comparison_runs import read_csv
from conftest import ROOT
from rich.console import Console
from run_script import run_script

from vaejax.comparison import read
from vaejax.comparison import run as compare_run
from vaejax.errors import UserError

SWEEP = "get_sweep = lambda: [{'name': 'k1'}, {'name': 'k2', 'objective.num_samples': 2}]"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two settings with two seeds, trained and evaluated as a sweep."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "sweep.py").write_text(SWEEP)
    finished = run_script(
        "sweep.py",
        "--config=configs/digits.py",
        "--config.model.latent_dims=(3,)",
        "--config.model.encoder=mlp(hidden_dims=(8,))",
        "--config.training.batch_size=200",
        "--config.training.num_epochs=3",
        "--config.evaluation.num_samples=20",
        f"--sweep={folder / 'sweep.py'}",
        f"--workdir={folder / 'sweep'}",
        "--seeds=2",
        timeout=300.0,  # two programs and eight evaluations; machines are shared
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
        "bounds", "gaps", "training", "budget", "samples", "extremes",
    }  # fmt: skip
    told = (report / "comparison.md").read_text()
    _, _, by_class = told.partition("## L_20 by class: differences to k1")
    assert re.findall(r"^\| (\d) \|", by_class, re.MULTILINE) == list("0123456789")


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")
def test_the_page_works_in_a_browser_offline(report, tmp_path):
    """A click on "setting", twice, turns the rows round; every embedded figure decodes."""
    script = """
<script>addEventListener("load", () => {
  const button = document.querySelector("th button");
  button.click(); button.click();
  const names = [...document.querySelector("tbody").rows].map(row => row.cells[0].textContent);
  const widths = [...document.images].map(image => image.naturalWidth);
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.result = JSON.stringify({names, widths, wide});
});</script></body>"""
    result = browser.found((report / "index.html").read_text(), script, tmp_path)
    assert result["names"] == ["k2", "k1"]
    assert len(result["widths"]) == 6
    assert min(result["widths"]) > 300
    assert not result["wide"]


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


def _change(folder, file="evaluation.json", part="protocol", **changes):
    path = folder / file
    result = json.loads(path.read_text())
    (result[part] if part else result).update(changes)
    path.write_text(json.dumps(result))


def _without(folder, prefix):
    with np.load(folder / "evaluation.npz") as arrays:
        kept = {k: v for k, v in arrays.items() if not k.startswith(prefix)}
    np.savez_compressed(folder / "evaluation.npz", **kept)
    result = json.loads((folder / "evaluation.json").read_text())
    digest = hashlib.sha256((folder / "evaluation.npz").read_bytes()).hexdigest()
    (folder / "evaluation.json").write_text(json.dumps(result | {"arrays_sha256": digest}))


def _flip(folder):
    content = bytearray((folder / "evaluation.npz").read_bytes())
    for place in range(200, len(content), 97):
        content[place] ^= 0xFF
    (folder / "evaluation.npz").write_bytes(content)


def _cut(folder):
    content = (folder / "evaluation.npz").read_bytes()
    (folder / "evaluation.npz").write_bytes(content[: len(content) // 2])


def _one_sample(folder):
    _change(folder, num_samples=1)
    result = json.loads((folder / "evaluation.json").read_text())
    kept = {k: v for k, v in result["estimates"].items() if k in ("elbo", "iwae_1", "kl")}
    (folder / "evaluation.json").write_text(json.dumps(result | {"estimates": kept}))


def _write(file, content):
    return lambda a, b: (b / file).write_bytes(content.encode() if content else b"\xff\xfe\0")


BAD = {
    "no run": (lambda a, b: shutil.rmtree(b), [], "holds no run"),
    "no evaluation": (lambda a, b: (b / "evaluation.json").unlink(), [], "has no evaluation"),
    "no values": (lambda a, b: (b / "evaluation.npz").unlink(), [], "has no evaluation"),
    "broken values": (
        lambda a, b: (b / "evaluation.npz").write_bytes(b"x"),
        [],
        "does not belong to",
    ),
    "cut values": (lambda a, b: _cut(b), [], "does not belong to"),
    "flipped values": (lambda a, b: _flip(b), [], "does not belong to"),
    "no variances": (lambda a, b: _without(b, "mc_variance/"), [], "holds no mc_variance/"),
    "no elbo": (lambda a, b: _without(b, "value/elbo"), [], "holds no value/elbo"),
    "other values": (lambda a, b: _change(b, part=None, arrays_sha256="0"), [], "does not belong"),
    "K = 1": (lambda a, b: (_one_sample(a), _one_sample(b)), [], "was evaluated with K = 1"),
    "broken result": (lambda a, b: (b / "evaluation.json").write_text("{"), [], "cannot be read"),
    "null result": (_write("evaluation.json", "null"), [], "is not an evaluation"),
    "list protocol": (_write("evaluation.json", '{"protocol": [], "estimates": {}}'), [], "is not"),
    "text as K": (lambda a, b: _change(b, num_samples="20"), [], "is not an evaluation"),
    "binary result": (_write("evaluation.json", ""), [], "cannot be read"),
    "deep result": (_write("evaluation.json", "[" * 10**5), [], "cannot be read"),
    "list config": (_write("config.json", "[]"), [], "is not the config of a run"),
    "no seed": (_write("config.json", '{"seed": null}'), [], "is not the config of a run"),
    "binary metrics": (_write("metrics.jsonl", ""), [], "metrics.jsonl: line 1"),
    "null metrics": (_write("metrics.jsonl", "null\n{}\n"), [], "metrics.jsonl: line 1: needs"),
    "text metrics": (
        _write("metrics.jsonl", '{"step": "1"}\n'),
        [],
        "line 1: step: needs a whole number",
    ),
    "members": (_write("groups.json", '[["../a"]]'), [], "lists of names of members"),
    "null members": (_write("groups.json", "null"), [], "lists of names of members"),
    "mixed datasets": (lambda a, b: _change(b, dataset="mnist"), [], "dataset is 'digits'"),
    "other hash": (lambda a, b: _change(b, data_sha256="0"), [], "data_sha256 is"),
    "unfinished": (lambda a, b: _change(b, finished=False), [], "finished is True in"),
    "unknown baseline": (lambda a, b: None, ["--baseline=k3"], "--baseline: unknown 'k3'"),
    "given twice": (lambda a, b: None, ["TWICE"], "is given twice"),
    "relative": (lambda a, b: None, ["RELATIVE"], "is given twice"),
    "link": (lambda a, b: (b.parent / "link").symlink_to(a), ["LINK"], "is given twice"),
    "copy": (lambda a, b: shutil.copytree(a, b.parent / "copy"), ["COPY"], "one seed (0)"),
    "nothing given": (lambda a, b: None, ["NOTHING"], "at least one folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_comparisons_take_one_line_and_lose_nothing(evaluated, tmp_path, case):
    change, more, sentence = BAD[case]
    first = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    second = shutil.copytree(evaluated / "k2,seed=0", tmp_path / "b")
    change(first, second)
    arguments = {
        "TWICE": [first, first],
        "NOTHING": [],
        "RELATIVE": [first, os.path.relpath(first, ROOT)],
        "LINK": [first, tmp_path / "link"],
        "COPY": [first, tmp_path / "copy"],
    }.get((more or [""])[0], [first, second])
    flags = [flag for flag in more if flag.startswith("--")]
    before = _contents(tmp_path)
    finished = run_script("compare.py", *arguments, *flags, f"--out={tmp_path / 'report'}")
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
    assert _contents(tmp_path) == before


def test_values_with_their_hash_are_read(evaluated, tmp_path):
    folder = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    digest = hashlib.sha256((folder / "evaluation.npz").read_bytes()).hexdigest()
    _change(folder, part=None, arrays_sha256=digest)
    assert read.run(folder, "a").result["arrays_sha256"] == digest


def test_every_cut_and_flipped_file_is_a_user_error(evaluated, tmp_path):
    """Any length, any byte: read as it was, or one line."""
    folder = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    path, rng = folder / "evaluation.npz", np.random.default_rng(0)
    content = path.read_bytes()
    for place in rng.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for broken in (content[:place], bytes(flipped)):
            path.write_bytes(broken)
            with contextlib.suppress(UserError):
                read.run(folder, "a")


def test_force_prints_apart(evaluated, tmp_path):
    """Runs of one name are shown with their paths; those with markup and TeX, as they are."""
    first = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a" / "b]$x$")
    second = shutil.copytree(evaluated / "k2,seed=0", tmp_path / "[" / "b]$x$")
    _change(second, dataset="other", finished=False, checkpoint_step=3)
    finished = run_script("compare.py", first, second, "--force", f"--out={tmp_path / 'report'}")
    assert finished.code == 0, finished.err
    assert "other test" in finished.out
    assert "Evaluated unlike" in finished.out
    assert f"{second}: evaluated before its training was finished." in finished.out
    rows = read_csv((tmp_path / "report" / "comparison.csv").read_text())
    assert len(rows) == 6
    assert {row["setting"] for row in rows} == {str(first), str(second)}
    assert {row["difference"] for row in rows} == {""}


@pytest.mark.slow
def test_an_output_without_greek_letters_gets_all_lines(evaluated, tmp_path):
    folders = [evaluated / name for name in ("k1,seed=0", "k2,seed=0")]
    finished = subprocess.run(
        [sys.executable, ROOT / "scripts/compare.py", *folders, f"--out={tmp_path}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr[-500:]
    assert finished.stdout.isascii()
    assert b"diff ELBO" in finished.stdout


def test_members_that_failed_are_counted(evaluated, tmp_path):
    sweep = shutil.copytree(evaluated, tmp_path / "sweep")
    (sweep / "k2,seed=1" / "failed.json").write_text('{"error": "diverged"}')
    report = compare_run.compare(
        [str(sweep)], baseline=None, out=tmp_path / "out", force=False, console=Console(quiet=True)
    )
    assert [(s.name, len(s.runs), s.failed) for s in report.tables[0].settings] == [
        ("k1", 2, 0), ("k2,seed=0", 1, 1),
    ]  # fmt: skip
    assert any("k2,seed=0: 1 of 2 seeds" in line for line in report.lines)
    assert any(line.startswith("One seed only: k2,seed=0.") for line in report.lines)


def test_a_run_without_a_checkpoint_is_compared_without_its_samples(evaluated, tmp_path):
    folder = shutil.copytree(evaluated / "k1,seed=0", tmp_path / "a")
    shutil.rmtree(folder / "checkpoints")
    report = compare_run.compare(
        [str(folder)], baseline=None, out=tmp_path / "out", force=False, console=Console(quiet=True)
    )
    assert any(line.startswith("No samples of a: ") for line in report.lines)
    assert not (tmp_path / "out" / "figures" / "samples.png").exists()


def test_images_that_are_not_at_hand_are_missed_in_one_sentence(evaluated, tmp_path, monkeypatch):
    def nowhere(config, part):
        raise UserError("dataset.name: 'digits' is not here")

    monkeypatch.setattr(compare_run.splits, "held_out", nowhere)
    folders = [str(evaluated / f"k{k},seed=0") for k in (1, 2)]
    report = compare_run.compare(
        folders, baseline=None, out=tmp_path / "out", force=False, console=Console(quiet=True)
    )
    assert [line for line in report.lines if "is not here" in line] == [
        "No differences by class or image, no samples of k1,seed=0, no samples of k2,seed=0: "
        "dataset.name: 'digits' is not here."
    ]


@pytest.mark.parametrize("case", ["file", "figures", "page"])
def test_an_unwritable_report_folder_is_found_before_the_figures(evaluated, tmp_path, case):
    (tmp_path / "report").mkdir()
    out = tmp_path / "report"
    if case == "page":
        (out / "index.html").mkdir()
    else:
        (out / "figures").write_text("kept")
        out = out / "figures" if case == "file" else out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_run.figures, "bounds", lambda parts: pytest.fail("too late"))
        patch.setattr(compare_run, "_draw", lambda *_: pytest.fail("too late"))
        with pytest.raises(UserError, match="cannot write"):
            compare_run.compare(
                [str(evaluated / "k1,seed=0")],
                baseline=None,
                out=out,
                force=False,
                console=Console(quiet=True),
            )
    assert case == "page" or (tmp_path / "report" / "figures").read_text() == "kept"
