"""Where two settings differ: by class, by image, by model and inference, with known answers."""

import types

import numpy as np
import pytest
from comparison_runs import NUM_EXAMPLES, make_run, make_setting

from vaejax import config as config_lib
from vaejax.comparison import figures, where
from vaejax.comparison.statistics import Setting
from vaejax.data import sources, splits
from vaejax.errors import UserError
from vaejax.evaluation.results import EvidenceProtocol

LABELS = ["b"] * 30 + ["a"] * 10


def _pair(rows=slice(30, None), by=2.0):
    """A setting that is higher than the baseline on some images alone, up to small noise."""
    baseline = make_setting("base", [0.0])
    other = make_run("other", noise=0.1)
    values = {name: array.copy() for name, array in other.values.items()}
    values["iwae_20"][rows] += by
    return Setting("other", [other._replace(values=values)]), baseline


def test_a_difference_in_one_class_is_seen_there_alone():
    setting, baseline = _pair()
    table = where.by_class([baseline, setting], baseline, "iwae_20", LABELS)
    assert table.headings == ["class", "images", "Δ other"]
    (a, b) = (row.cells for row in table.rows)
    assert a[:2] == ["a", "10"]
    assert float(a[2].partition(" ")[0]) == pytest.approx(2.0, abs=0.2)
    assert b[:2] == ["b", "30"]
    assert b[2].startswith("(")
    unlike = [str(index) for index in range(101)]
    assert where.by_class([baseline, setting], baseline, "iwae_20", unlike) is None


def test_the_images_of_the_largest_differences_come_first():
    setting, baseline = _pair(rows=[3, 7], by=np.array([9.0, -5.0]))
    found = where.extremes(setting, baseline, "iwae_20")
    assert (found.best[0], found.worst[0]) == (3, 7)
    assert len(found.best) == len(found.worst) == where.NUM_IMAGES
    assert found.ours[3] - found.theirs[3] == pytest.approx(9.0, abs=0.5)
    images = np.random.default_rng(0).random((NUM_EXAMPLES, 4, 3, 1))
    drawn = figures.extremes(found, images, ("other", "base"))
    titles = [axes.get_title() for part in drawn.subfigs for axes in part.axes]
    assert titles[0] == f"{found.ours[7]:.1f} | {found.theirs[7]:.1f}"
    assert sum(map(bool, titles)) == 32


def _stored(log_marginal, elbo, *, seed=0, gaps=True):
    count = len(elbo)
    about = types.SimpleNamespace(log_marginal_from="annealed") if gaps else None
    kept = types.SimpleNamespace(protocol=EvidenceProtocol(count, seed))
    arrays = {"annealed/value": log_marginal, "gaps/elbo": np.stack([elbo, 0 * elbo], 1)}
    result = types.SimpleNamespace(gaps=about, evidence=kept)
    return types.SimpleNamespace(result=result, evidence_arrays=arrays)


def test_a_difference_of_elbos_is_the_models_or_the_inferences():
    """The same model with a worse q: no difference in log p(x), all of it in the gap."""
    setting, baseline = make_setting("worse q", [0.0]), make_setting("base", [0.0])
    log_marginal = np.linspace(-30.0, -20.0, 25)
    evidence = {
        setting.runs[0].name: _stored(log_marginal, log_marginal - 3.0),
        baseline.runs[0].name: _stored(log_marginal, log_marginal - 1.0),
    }
    said = where.model_or_inference(setting, baseline, evidence)
    assert "first 25 examples: ELBO -2.000 ± 0.000" in said
    assert "log p(x) +0.000 ± 0.000 (the model) minus inference gap +2.000 ± 0.000" in said
    for other in ({"seed": 1}, {"gaps": False}):
        evidence[setting.runs[0].name] = _stored(log_marginal, log_marginal, **other)
        assert where.model_or_inference(setting, baseline, evidence) is None


def test_labels_follow_the_images_of_the_test_split(tmp_path):
    images = np.zeros((6, 2, 2), np.uint8)
    images[0] = 255
    path = tmp_path / "own.npz"
    np.savez(path, train=images, test=images, test_labels=np.array([3, 1, 4, 1, 5, 9]))
    assert sources.labels(str(path), "test[1:4]") == ["1", "4", "1"]
    assert sources.labels(str(path), "train") is None
    np.savez(path, train=images, test=images, test_labels=np.arange(5))
    with pytest.raises(UserError, match="as many test_labels as images, 6, got 5"):
        sources.labels(str(path), "test")
    np.savez(path, train=images, test=images, test_labels=np.zeros((6, 2)))
    with pytest.raises(UserError, match="test_labels needs one whole number or text"):
        sources.labels(str(path), "test")


@pytest.mark.slow
def test_the_digits_have_labels_in_the_order_of_their_images():
    from sklearn import datasets

    config = config_lib.Config()
    assert config.dataset.name == "digits"
    labels = splits.test_labels(config)
    images = sources.load("digits", config.dataset.test_split).images
    assert len(labels) == len(images) == 360
    known = datasets.load_digits()
    levels = np.round(known.images * (255.0 / 16.0))
    for label, image in zip(labels[:50], images, strict=False):
        (index, *_) = np.flatnonzero((levels == image[..., 0]).all(axis=(1, 2)))
        assert label == str(known.target[index])
