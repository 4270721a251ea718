"""Checkpoints: nothing lost, nothing silently wrong."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from vaejax.errors import UserError
from vaejax.storage import checkpoint_files, checkpoints


class State(NamedTuple):
    """As a training state looks from here."""

    step: Any
    params: Any
    best: Any = None


def state_at(step, scale=1.0):
    values = jnp.arange(1000, dtype=jnp.float32) * scale + step
    return State(jnp.int32(step), {"generative": {"w": values}, "inference": (values[:3],)})


LIKE = jax.eval_shape(lambda: state_at(0))


def save_all(folder, *steps, keep=2):
    with checkpoints.open_saver(folder, keep=keep) as saver:
        for step in steps:
            saver.save(state_at(step))
    return saver


pytestmark = pytest.mark.filterwarnings("error")  # also what threads of Orbax would print


def assert_restored(folder, step, warnings=0, scale=1.0):
    state, said = checkpoints.restore(folder, LIKE)
    assert len(said) == warnings
    assert isinstance(state, State)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step, scale))
    return said


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture(autouse=True)
def _run(folder):
    folder.parent.mkdir()


def test_the_newest_are_kept_and_come_back_bit_for_bit(folder):
    assert checkpoints.restore(folder, LIKE) == (None, [])
    saver = save_all(folder, 1, 5, 10)
    assert saver.saved_step() == 10
    assert checkpoints.steps(folder) == [10, 5]
    assert_restored(folder, 10)
    assert {path.name for path in folder.iterdir()} == {"5", "10"}


def test_saving_does_not_hold_up_and_takes_a_copy(folder, monkeypatch):
    write = checkpoint_files.write
    monkeypatch.setattr(
        checkpoint_files, "write", lambda *arguments: (time.sleep(0.5), write(*arguments))
    )
    state = jax.tree.map(lambda leaf: np.array(leaf), state_at(3))
    with checkpoints.open_saver(folder, keep=2) as saver:
        begun = time.monotonic()
        saver.save(state)
        assert time.monotonic() - begun < 0.25
        assert saver.saved_step() is None
        state.params["generative"]["w"][:] = -1  # as a donated buffer would be
    assert saver.saved_step() == 3
    assert_restored(folder, 3)


def test_a_failed_save_is_an_error_of_the_next_save_and_of_the_exit(folder, monkeypatch):
    save_all(folder, 1)

    def full(*_):
        raise ValueError("INTERNAL: write failed: No space left on device [tensorstore]")

    monkeypatch.setattr(checkpoint_files, "write", full)
    message = "cannot write checkpoint 2 .*: No space left on device; earlier checkpoints are"
    with checkpoints.open_saver(folder, keep=2) as saver:
        saver.save(state_at(2))
        with pytest.raises(UserError, match=message) as error:
            saver.save(state_at(3))
        one_line(error)
    with pytest.raises(UserError, match=message):
        save_all(folder, 2)


def test_the_error_of_a_body_is_kept_and_the_failed_save_noted(folder, monkeypatch):
    save_all(folder, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def body():
        with checkpoints.open_saver(folder, keep=2) as saver:
            saver.save(state_at(2))
            raise KeyError("the body's own")

    monkeypatch.setattr(checkpoint_files, "write", full)
    with pytest.raises(KeyError) as raised:
        body()
    assert "cannot write checkpoint 2" in raised.value.__notes__[0]
    assert_restored(folder, 1)


def test_an_older_checkpoint_goes_only_after_the_newer_was_read_back(folder, monkeypatch):
    save_all(folder, 1, 2)
    before = files_of(folder)
    write = checkpoint_files.write

    def halved(path, state):
        write(path, state)
        cut(path)

    monkeypatch.setattr(checkpoint_files, "write", halved)
    with pytest.raises(UserError, match="cannot write checkpoint 3"):
        save_all(folder, 3)
    assert before.items() <= files_of(folder).items()
    said = assert_restored(folder, 2, warnings=1)
    assert "checkpoint 3" in said[0]


def test_a_damaged_checkpoint_is_stepped_over_and_renamed_aside(folder):
    save_all(folder, 1, 2)
    cut(folder / "2")
    before = files_of(folder)
    said = assert_restored(folder, 1, warnings=1)
    assert "checkpoint 2" in said[0]
    assert "damaged" in said[0]
    assert files_of(folder) == before  # a reader changes nothing
    save_all(folder, 2)
    assert_restored(folder, 2)
    kept = files_of(folder / "damaged-2")
    assert kept == {k.removeprefix("2/"): v for k, v in before.items() if k.startswith("2/")}


def test_a_flipped_byte_is_noticed(folder):
    save_all(folder, 1, 2)
    path = largest(folder / "2")
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content) // 4 + 8):
        content[at] ^= 0xFF
    path.write_bytes(content)
    assert_restored(folder, 1, warnings=1)


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "metadata"])
def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over(folder, damage):
    save_all(folder, 1)
    if damage == "cut":
        cut(folder / "1")
    elif damage == "empty":
        shutil.rmtree(folder / "1")
        (folder / "1").mkdir()
    elif damage == "missing":
        largest(folder / "1").unlink()
    else:
        (folder / "1" / "_METADATA").write_bytes(b"\0")
    before = files_of(folder)
    with pytest.raises(UserError, match=r"no readable checkpoint is left .* to start over") as e:
        checkpoints.restore(folder, LIKE)
    one_line(e)
    assert files_of(folder) == before
    checkpoints.set_aside(folder, 1)
    with pytest.raises(UserError, match="damaged-1 was set aside"):
        checkpoints.restore(folder, LIKE)


def test_a_checkpoint_dropped_while_it_is_read_is_not_damaged(folder, monkeypatch):
    save_all(folder, 1, 2)
    read, states = checkpoint_files.read, [3]

    def read_late(path, like):
        while states:  # the run saves, and drops what is about to be read
            save_all(folder, states.pop(), keep=1)
        return read(path, like)

    monkeypatch.setattr(checkpoint_files, "read", read_late)
    assert_restored(folder, 3)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_now_stops_and_deletes_nothing(folder, code, monkeypatch):
    save_all(folder, 1, 2)
    before = files_of(folder)

    def refuse(name, *_, **__):
        raise OSError(code, os.strerror(code), str(name))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refuse)
        with pytest.raises(UserError, match=f"cannot be read: .*{os.strerror(code)}") as error:
            checkpoints.restore(folder, LIKE)
    one_line(error)
    assert files_of(folder) == before
    assert_restored(folder, 2)


def test_errors_that_orbax_wraps_are_told_from_damage(folder, monkeypatch):
    save_all(folder, 1)

    def refuse(*_, **__):
        raise ValueError("PERMISSION_DENIED: Error opening file [source locations='x']")

    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointHandler.restore", refuse)
    with pytest.raises(UserError, match="cannot be read: PERMISSION_DENIED"):
        checkpoints.restore(folder, LIKE)


@pytest.mark.parametrize("name", ["", "0/1", "file"])
def test_a_partial_or_foreign_folder_does_not_keep_the_save_from_happening(folder, name):
    save_all(folder, 1)
    if name == "file":
        (folder / "2").write_text("no folder")
    else:
        (folder / "2" / name).mkdir(parents=True)
    save_all(folder, 2)
    assert_restored(folder, 2)
    assert (folder / "damaged-2").exists()


def test_names_that_are_no_steps_are_left_alone(folder):
    save_all(folder, 1)
    for name in ("007", "²", "1.old", "notes"):
        (folder / name).mkdir()
    assert checkpoints.steps(folder) == [1]
    assert_restored(folder, 1)


def test_the_same_step_again_is_written_only_where_it_differs(folder):
    save_all(folder, 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert save_all(folder, 1).saved_step() == 1
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with checkpoints.open_saver(folder, keep=2) as saver:
        saver.save(state_at(1, scale=2.0))
    assert_restored(folder, 1, scale=2.0)
    assert (folder / "damaged-1").exists()


def test_a_folder_removed_in_between_stops_and_is_not_made_anew(folder):
    def run():
        with checkpoints.open_saver(folder, keep=2) as saver:
            saver.save(state_at(1))
            saver.wait()
            shutil.rmtree(folder.parent)
            saver.save(state_at(2))

    with pytest.raises(UserError, match="run is gone: it was removed") as error:
        run()
    one_line(error)
    assert not folder.parent.exists()


def test_a_run_that_is_being_removed_gets_no_new_files(folder):
    """Removing it can stumble over a save that has just made a folder: it stays, empty."""
    (folder.parent / "config.json").write_text("{}")

    def run():
        with checkpoints.open_saver(folder, keep=2) as saver:
            saver.save(state_at(1))
            saver.wait()
            shutil.rmtree(folder)
            (folder.parent / "config.json").unlink()
            saver.save(state_at(2))

    with pytest.raises(UserError, match="run is gone: it was removed"):
        run()
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            State(jnp.int32(0), {"generative": {"w": jnp.zeros(3)}, "inference": (jnp.zeros(3),)}),
            r"params/generative/w is \(1000,\) there and \(3,\) in the config",
        ),
        (
            State(jnp.int32(0), {"generative": {"w": jnp.zeros(1000)}, "inference": ()}),
            r"params/inference/0 is float32 \(3,\) there and absent in the config",
        ),
        (
            State(
                jnp.int32(0),
                {"generative": {"w": jnp.zeros(1000, jnp.bfloat16)}, "inference": (jnp.zeros(3),)},
            ),
            r"w is float32 \(1000,\) there and bfloat16 \(1000,\) in the config",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_leaf(folder, like, message):
    save_all(folder, 1)
    with pytest.raises(UserError, match=f"checkpoint of another model: .*{message}"):
        checkpoints.restore(folder, jax.eval_shape(lambda: like))


KILLED = """
import pathlib, sys
sys.path.insert(0, "tests")
from test_checkpoints import checkpoints, state_at
with checkpoints.open_saver(pathlib.Path(sys.argv[1]), keep=2) as saver:
    for step in range(1, 10000):
        saver.save(state_at(step))
        if step == 4: print("going", flush=True)
"""


def test_a_kill_during_a_save_leaves_whole_checkpoints_and_no_rests(folder):
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"going\n"
        time.sleep(0.317)
        process.send_signal(signal.SIGKILL)
    newest = checkpoints.steps(folder)[0]
    assert_restored(folder, newest)
    save_all(folder, 20_000)
    assert {path.name for path in folder.iterdir()} == {str(newest), "20000"}


def test_many_savers_share_a_pool(tmp_path):
    import concurrent.futures
    import contextlib

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        savers = []
        for name in "abcdef":
            (tmp_path / name).mkdir()
            saver = checkpoints.open_saver(tmp_path / name / "checkpoints", keep=2, pool=pool)
            savers.append(stack.enter_context(saver))
        for step in (1, 2, 3):
            for saver in savers:
                saver.save(state_at(step))
    for name in "abcdef":
        assert_restored(tmp_path / name / "checkpoints", 3)


def test_a_limit_on_the_size_of_files_is_met_before_anything_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = {*tmp_path.rglob("*")}
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        checkpoint_files.require_room(tmp_path, {"w": np.zeros(1000)})
        with pytest.raises(OSError, match="File too large"):
            checkpoint_files.require_room(tmp_path, {"w": np.zeros(1025)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {*tmp_path.rglob("*")} == before
