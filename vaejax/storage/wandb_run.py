"""A run of Weights & Biases beside the one of a folder; needs the `wandb` extra.

Its account, project and mode are those of the environment: WANDB_API_KEY or `wandb login`,
WANDB_PROJECT ("vaejax" where it is not set), WANDB_MODE=offline.
"""

import contextlib
import importlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from vaejax.errors import UserError
from vaejax.storage import files, json_files

_PROJECT = "vaejax"
_ADVICE = "log in with `wandb login`, or set WANDB_MODE=offline"


def package() -> ModuleType:
    """The module. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            "--loggers: wandb is not installed; pip install -e '.[wandb]', or leave it out"
        ) from error


def check() -> None:
    """Asks for the package, and for the account where the service will want it.

    Asked by `wandb.init` itself, a reader at a terminal would wait for a question that is hidden.

    Raises:
      UserError: one of them is missing, or an environment variable of wandb's is wrong.
    """
    wandb = package()
    with _errors(wandb):
        if wandb.setup().settings.mode != "online" or wandb.login(prompt=False):
            return
    raise UserError(f"--loggers: wandb: no account is known; {_ADVICE}")


@contextlib.contextmanager
def opened(workdir: pathlib.Path) -> Iterator[Any]:
    """The `wandb.Run` of `workdir`, the same one after every start, with the config of the folder.

    Its files lie in wandb/ of the folder. It says nothing, and leaves the terminal alone.

    Raises:
      UserError: it cannot begin: no account, no connection, a disk that is full.
    """
    wandb = package()
    config = json_files.read_json(workdir / "config.json", json_files.CONFIG)
    with _errors(wandb):
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            dir=str(workdir),
            id=_id(workdir),
            name=workdir.name,
            config=config,
            resume="allow",
            reinit="create_new",  # members of a sweep are open together
            settings=wandb.Settings(silent=True, console="off"),
        )
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


@contextlib.contextmanager
def _errors(wandb: ModuleType) -> Iterator[None]:
    """What stops it from beginning as one line."""
    try:
        yield
    except (wandb.Error, OSError, ValueError) as error:
        reason = " ".join(str(error).partition(" [type=")[0].split()) or type(error).__name__
        raise UserError(f"--loggers: wandb: {reason[:200]}; {_ADVICE}") from error


def image(picture: np.ndarray) -> Any:
    """What `wandb.Run.log` takes for a picture [H, W, 3] uint8."""
    return package().Image(picture)


def _id(workdir: pathlib.Path) -> str:
    """The name of the run to the service, drawn once and kept in wandb/run.json."""
    path = workdir / "wandb" / "run.json"
    if path.is_file():
        return json_files.read_json(path, {"id": str}, advice="remove it to begin another")["id"]
    drawn = secrets.token_hex(8)
    files.write_json(path, {"id": drawn}, root=workdir)
    return drawn
