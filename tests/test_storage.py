"""What lies on disk: paths, locks, checked reading, files published together, metrics."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, small_config

from vaejax.errors import UserError
from vaejax.storage import arrays, files, json_files, logging
from vaejax.storage import workdir as workdir_lib


def one_line(error):
    """The text of an error, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a folder, got '' .a shell variable that is not set"),
        ("  ", "needs a folder"),
        ("runs/lr[0.1]", r"contains \[ \]"),
        ("runs/*", r"contains \*, "),
        ("a?/b", r"contains \?"),
        ("~nosuchuser/x", "'~nosuchuser' stands for no home"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("x/" + "é" * 128, "at most 255 bytes, got 256"),
        ("x/" * 3000, "File name too long"),
    ],
)
def test_paths_that_cannot_hold_a_run_are_refused(text, message):
    with pytest.raises(UserError, match=f"^--out: .*{message}") as error:
        workdir_lib.check_path(text, flag="--out")
    one_line(error)


def test_a_path_is_expanded_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir_lib.check_path("~/runs/a") == tmp_path / "runs" / "a"
    assert str(workdir_lib.check_path("runs/a")) == "runs/a"
    assert not (tmp_path / "runs").exists()


def test_the_folder_one_stands_in_counts_too(tmp_path, monkeypatch):
    (tmp_path / "lr[1]").mkdir()
    monkeypatch.chdir(tmp_path / "lr[1]")
    with pytest.raises(UserError, match=r"contains \[ \]"):
        workdir_lib.check_path("run")


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_path_is_refused(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    with pytest.raises(UserError, match=f"HOME is '{home}'"):
        workdir_lib.check_path("~/runs")


def test_files_in_the_place_of_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="file is a file, a folder is needed"):
        workdir_lib.check_path(str(tmp_path / "file"))
    with pytest.raises(UserError, match="file is a file, a folder is needed"):
        workdir_lib.check_path(str(tmp_path / "file" / "run"))
    with pytest.raises(UserError, match="link is a link to nothing"):
        workdir_lib.check_path(str(tmp_path / "link"))


def test_only_files_of_a_folder_are_inside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to("/etc/hostname")
    assert workdir_lib.inside(tmp_path / "run", "figures/a.png").name == "a.png"
    for name in ("../x", "/etc/hostname", "link", "a\0b"):
        with pytest.raises(UserError):
            workdir_lib.inside(tmp_path / "run", name)


def test_a_folder_is_held_by_one_trainer(tmp_path):
    with workdir_lib.lock(tmp_path / "new" / "run") as warning:
        assert warning is None
        with (
            pytest.raises(UserError, match="another trainer is running"),
            workdir_lib.lock(tmp_path / "new" / "run"),
        ):
            pass
    with workdir_lib.lock(tmp_path / "new" / "run"):
        pass


def test_a_killed_trainer_frees_its_folder(tmp_path):
    code = (
        "import sys, time, pathlib; from vaejax.storage import workdir\n"
        "with workdir.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another trainer"), workdir_lib.lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with workdir_lib.lock(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_without_file_locks_is_used_with_a_warning(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with workdir_lib.lock(tmp_path) as warning:
        assert "no file locks" in warning


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(UserError, match=r"cannot write .*Read-only file system") as error,
        workdir_lib.lock(tmp_path),
    ):
        pass
    one_line(error)


def test_a_root_that_is_gone_is_not_made_anew(tmp_path):
    root = tmp_path / "run"
    for write in (
        lambda: workdir_lib.write_json(root / "a.json", {}, root=root),
        lambda: workdir_lib.write_npz(root / "figures" / "a.npz", {}, root=root),
        lambda: workdir_lib.publish(root, {"a": lambda handle: handle.write(b"")}),
    ):
        with pytest.raises(UserError, match="run is gone: it was removed") as error:
            write()
        one_line(error)
        assert not root.exists()
    root.mkdir()
    workdir_lib.write_json(root / "deep" / "er" / "a.json", {}, root=root)


BAD_JSON = [
    (b"", "is empty"),
    (b"null", "needs an object, got null"),
    (b"[]", r"needs an object, got \[\]"),
    (b"3", "needs an object, got 3"),
    (b'{"step": ', "no JSON"),
    (b"\x00\xff\x1f\x8b", "is no UTF-8"),
    (b'{"step": "3", "error": "e"}', "step: needs a whole number, got .3."),
    (b'{"step": true, "error": "e"}', "step: needs a whole number, got true"),
    (b'{"step": 3.5, "error": "e"}', "step: needs a whole number, got 3.5"),
    (b'{"step": 99999999999999999999, "error": "e"}', "step: needs a whole number"),
    (b'{"step": 1' + b"0" * 400 + b', "error": "e"}', "holds a whole number of 401 digits"),
    (b'{"step": 1' + b"0" * 9000 + b', "error": "e"}', "holds a whole number of 9001 digits"),
    (b'{"step": 1}', "error is missing"),
    (b'{"step": 1, "error": {}}', "error: needs text, got an object"),
    (b'{"step": 1, "error": "\\ud800"}', "error: needs text"),
    (b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("content", "message"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_does_not_fit_is_one_line(content, message, tmp_path):
    path = tmp_path / "failed.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"failed.json: cannot be read: {message}") as error:
        json_files.read_json(path, json_files.FAILED, advice="remove it")
    text = one_line(error)
    assert text.endswith("; remove it")
    assert len(text) < 300


def test_a_folder_or_nothing_is_no_json(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"cannot be read: (Is a directory|No such file)"):
            json_files.read_json(path)


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        (json_files.GROUPS, [["a"], [3]], r"\[1\]\[0\]: needs text, got 3"),
        (json_files.GROUPS, {"a": 1}, "needs a list, got an object"),
        (json_files.EVALUATION, {"protocol": {}}, "estimates is missing"),
        (json_files.EXPLAIN, {"elbo": 3}, "elbo: needs an object, got 3"),
    ],
)
def test_schemas_say_where(schema, value, message):
    with pytest.raises(ValueError, match=message):
        json_files.check(value, schema)


@pytest.mark.parametrize("name", ["../../etc/hostname", "/etc/hostname", "", "a\0b", 3])
def test_figures_outside_of_the_folder_are_refused(name):
    schema = json_files.EXPLAIN["*"]["figures"]
    assert json_files.check([{"file": "figures/a.png", "caption": ""}], schema)
    with pytest.raises(ValueError, match=r"^\[0\].file: needs"):
        json_files.check([{"file": name, "caption": ""}], schema)


def test_optional_keys_may_be_absent_but_not_wrong():
    check = lambda value: json_files.check(value, json_files.FAILED)
    assert check({"step": 1, "error": "e", "more": []}) == {"step": 1, "error": "e", "more": []}
    with pytest.raises(ValueError, match="retry: needs text, got 3"):
        check({"step": 1, "error": "e", "retry": 3})


def test_numbers_that_are_not_finite_come_back(tmp_path):
    path = tmp_path / "a.json"
    value = {"mean": np.float32(np.nan), "many": np.array([1.0, np.inf]), "k": np.int64(3)}
    workdir_lib.write_json(path, value)
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"mean": None, "many": [1.0, None], "k": 3}
    assert math.isnan(json_files.read_json(path, {"mean": float})["mean"])


@pytest.mark.parametrize("content", [b"null", b"[]", b'{"seed": []}', b"\xff"])
def test_a_config_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: ") as error:
        workdir_lib.claim(tmp_path, small_config())
    one_line(error)


def _npz(path):
    values = {"value/elbo": np.arange(1000.0), "ess": np.ones(3, np.float32)}
    workdir_lib.write_npz(path, values)
    return values


def _read_or_error(path):
    try:
        return None, arrays.read_npz(path, advice="evaluate again")
    except UserError as error:
        return str(error), None


def test_damaged_arrays_are_one_line(tmp_path):
    path = tmp_path / "a.npz"
    values = _npz(path)
    found = arrays.read_npz(path)
    assert {*found} == {*values}
    whole = path.read_bytes()
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], object))
    np.save(tmp_path / "single.npy", np.ones(3))
    broken = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not an archive",
        "pickle": (tmp_path / "pickle.npz").read_bytes(),
        "single": (tmp_path / "single.npy").read_bytes(),
    }
    rng = np.random.default_rng(0)
    for number, at in enumerate(rng.integers(40, 400, 25)):
        broken[f"flip{number}"] = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    for name, content in broken.items():
        path.write_bytes(content)
        said, again = _read_or_error(path)
        if said is None:  # a flip in a field that nobody reads
            assert name.startswith("flip")
            np.testing.assert_array_equal(again["value/elbo"], values["value/elbo"])
        else:
            assert said.endswith("; evaluate again"), name
            assert "\n" not in said


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match="holds pickled objects"):
        arrays.read_npz(tmp_path / "a.npz")


def test_halves_that_do_not_belong_together_are_refused(tmp_path):
    path = tmp_path / "evaluation.json"
    read = lambda: arrays.read_tied(path, schema=dict)
    files.write_tied(path, {"a": 1}, {"x": np.ones(2)})
    result, found = read()
    assert result["a"] == 1
    np.testing.assert_array_equal(found["x"], [1, 1])
    workdir_lib.write_npz(path.with_suffix(".npz"), {"x": np.zeros(2)})
    with pytest.raises(
        UserError, match=r"evaluation\.npz do not belong together; evaluate the run"
    ):
        read()
    path.with_suffix(".npz").unlink()
    with pytest.raises(UserError, match=r"evaluation.npz is missing beside evaluation.json"):
        read()
    workdir_lib.write_json(path, {"a": 1})  # of the first edition: tied to nothing
    workdir_lib.write_npz(path.with_suffix(".npz"), {"x": np.zeros(2)})
    with pytest.raises(UserError, match="do not belong together"):
        read()


def test_nothing_is_published_before_everything_is_written(tmp_path):
    names = {"a": lambda handle: handle.write(b"old"), "b": lambda handle: handle.write(b"old")}
    workdir_lib.publish(tmp_path, names)

    def full(handle):
        handle.write(b"new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"cannot write .*/b: No space.*free some space"):
        workdir_lib.publish(tmp_path, {"a": lambda handle: handle.write(b"new"), "b": full})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": b"old",
        "b": b"old",
    }


def _rows(path, text):
    path.write_bytes(text)
    return logging.read_metrics(path)


def test_only_a_half_written_last_row_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert logging.read_metrics(path) == []
    assert _rows(path, b'{"step": 1, "a": 2}\n{"step": 2, "a"') == [{"step": 1, "a": 2}]
    assert math.isnan(_rows(path, b'{"step": 1, "a": null}\n')[0]["a"])
    for text, message in (
        (b'{"step": 1}\n{"ste\n{"step": 3}\n', "line 2: no JSON"),
        (b'{"step": 1}\nnull\n{"step": 3}\n', "line 2: needs an object, got null"),
        (b'{"step": "1"}\n', "line 1: step: needs a whole number"),
        (b'{"step": 1, "train/elbo": "x"}\n', "line 1: train/elbo: needs a number, got 'x'"),
        (b'{"step": 1}\n\xff\xfe\n{"step": 3}\n', "line 2: is no UTF-8"),
    ):
        with pytest.raises(UserError, match=message) as error:
            _rows(path, text)
        one_line(error)


def test_rows_are_json_for_every_reader_and_resume_drops_later_ones(tmp_path):
    for step in (0, 2):
        with logging.metrics_writer(tmp_path, step=step) as writer:
            for at in range(step + 1, step + 4):
                writer.scalars(at, {"a": math.nan if at == 1 else np.float32(at)})
            writer.image(step, "samples", np.zeros((4, 4, 3), np.uint8))
    text = (tmp_path / "metrics.jsonl").read_text()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert strict == [{"step": 1, "a": None}, *({"step": s, "a": float(s)} for s in range(2, 6))]


def test_tensorboard_reads_what_is_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with logging.metrics_writer(tmp_path, step=4) as writer:
        writer.scalars(5, {"train/elbo": -3.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    assert [event.step for event in events] == [0, 5, 5]
    assert events[0].file_version == "brain.Event:2"
    value = events[-1].summary.value[0]
    assert (value.tag, value.simple_value) == ("train/elbo", -3.5)


def test_a_folder_removed_in_between_stops_the_rows(tmp_path):
    run = tmp_path / "run"
    run.mkdir()

    def write():
        with logging.metrics_writer(run, step=0) as writer:
            writer.scalars(1, {"a": 1.0})
            shutil.rmtree(run)
            writer.scalars(2, {"a": 1.0})

    with pytest.raises(UserError, match="run is gone: it was removed") as error:
        write()
    one_line(error)
    assert not run.exists()
    with pytest.raises(UserError, match="is gone"), logging.metrics_writer(run, step=0):
        pass
    assert not run.exists()


def test_a_metrics_file_replaced_in_between_stops_the_rows(tmp_path):
    def write():
        with logging.metrics_writer(tmp_path, step=0) as writer:
            workdir_lib.write_json(tmp_path / "metrics.jsonl", {"step": 1})
            writer.scalars(2, {"a": 1.0})

    with pytest.raises(UserError, match="was replaced by another file"):
        write()


FULL = """
import pathlib, resource, signal, sys
from vaejax.errors import UserError
from vaejax.storage import logging
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with logging.metrics_writer(pathlib.Path(sys.argv[1]), step=0) as writer:
        for step in range(10000):
            writer.scalars(step, {"a/very/long/name/of/a/number": 1.0})
except UserError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_line_of_the_metrics(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert finished.stderr.startswith("cannot write ")
    assert "free some space" in finished.stderr
    assert finished.stderr.count("\n") == 1
