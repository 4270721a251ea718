"""What the scripts share: `--config.key=value` flags, paths, errors on one line, exit codes.

0: done; 1: another host of the run was lost; 2: a mistake that the reader can mend, said on one
line; 128 + n: stopped by signal n, after what was done is saved.
"""

import os
import pathlib
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from rich.console import Console

from vaejax import config as config_lib
from vaejax import schema
from vaejax.errors import Stopped, UserError
from vaejax.experiment import cluster, config_files, config_help
from vaejax.storage import workdir as workdir_lib

_OVERRIDE, _HELP = "config_override", "help_config"
_LONGEST_NAME = 100
_NEGATIVE = re.compile(r"-[\d.]")


def define_config(default: str | None = None) -> None:
    """Defines --config=FILE[:argument] or RUN/config.json, and --config.any.key=value."""
    flags.DEFINE_string(
        "config",
        default,
        "config file, file:argument, or the config.json of a run; override any key with "
        "--config.some.key=value",
    )
    define_overrides()


def define_overrides() -> None:
    """Defines --config.any.key=value alone, for scripts that take the config of a run."""
    flags.DEFINE_multi_string(_OVERRIDE, [], "some.key=value; what --config.some.key=value means")


def define_help() -> None:
    """Defines --help_config [WORD]."""
    flags.DEFINE_string(
        _HELP, None, "list the keys of the config that have WORD in name or meaning, and stop"
    )


def help_lines() -> list[str] | None:
    """What --help_config asks for; None where it was not given. Raises UserError."""
    word, file = flags.FLAGS[_HELP].value, flags.FLAGS.config
    if word is None:
        return None
    given = overrides()
    base = config_lib.Config() if file is None else config_files.load(file)
    return config_help.lines(override(base, given), file=file, given=given, word=word)


def overrides() -> dict[str, str | None]:
    """The text given as --config.any.key=value, by dotted path; None: the key alone stood there.

    Of a key that is given twice the last value counts.
    """
    found: dict[str, str | None] = {}
    for assignment in flags.FLAGS[_OVERRIDE].value:
        path, equals, value = assignment.partition("=")
        found[path] = value if equals else None
    return found


def override(node: Any, given: dict[str, str | None], *, root: str = "config") -> Any:
    """`node`, a config of any kind, with `given` put in place, each value in its type.

    Raises:
      UserError: unknown key, value of a wrong type or out of range, or none where the key is
        not of true or false.
    """
    kinds = {path: item.type for path, _, item in schema.leaves(node)}
    for path, text in given.items():
        if text is None and kinds.get(path, bool) is not bool:
            raise UserError(f"--{root}.{path}: needs a value: --{root}.{path}=value")
        value = True if text is None else schema.from_text(node, path, text)
        node = schema.replace(node, path, value, root=root)
    return node


def config() -> config_lib.Config:
    """The config that the flags describe. Raises UserError."""
    if flags.FLAGS.config is None:
        raise UserError("--config: needs a config file, such as --config=configs/digits.py")
    return config_lib.validated(override(config_files.load(flags.FLAGS.config), overrides()))


def path(flag: str) -> pathlib.Path:
    """The folder given as --`flag`; it need not exist. Raises UserError."""
    if flags.FLAGS[flag].value is None:
        raise UserError(f"--{flag}: needs a folder, such as --{flag}=runs/digits")
    return workdir_lib.check_path(flags.FLAGS[flag].value, flag=f"--{flag}")


def _rewritten(arguments: list[str]) -> list[str]:
    """Every form of a config override as --config_override=path=value.

    --config.a=1, --config.a 1, --config.flag and --noconfig.flag, with one dash or two.
    """
    found, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        body = argument.lstrip("-")
        if argument.startswith("-") and body.startswith("config."):
            body = body.removeprefix("config.")
            follows = bool(rest) and (not rest[0].startswith("-") or _NEGATIVE.match(rest[0]))
            if "=" not in body and follows:
                body = f"{body}={rest.pop(0)}"
            argument = f"--{_OVERRIDE}={body}"
        elif argument.startswith("-") and body.startswith("noconfig."):
            argument = f"--{_OVERRIDE}={body.removeprefix('noconfig.')}=false"
        elif argument.startswith("-") and body == _HELP:
            word = rest.pop(0) if rest and not rest[0].startswith("-") else ""
            argument = f"--{_HELP}={word}"
        found.append(argument)
    return found


def _parse(arguments: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    rewritten = _rewritten(arguments)
    given = [a for a in rewritten[1:] if a.startswith("-") and not _NEGATIVE.match(a)]
    names = [argument.lstrip("-").partition("=")[0] for argument in given]
    for name, count in Counter(names).items():
        if count > 1 and name != _OVERRIDE:
            raise flags.Error(f"--{name}: is given {count} times; give it once")
        if len(name) > _LONGEST_NAME:  # absl looks for the nearest name, and never ends
            raise flags.Error(f"unknown flag --{name[:_LONGEST_NAME]}...")
    try:
        return values(rewritten)
    except RecursionError as error:  # the same search, of a name that only absl sees
        raise flags.Error("unknown flag with a name of many characters") from error


def _say(text: str) -> None:
    line = f"error: {' '.join(text.split())}"
    encoding = sys.stderr.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), file=sys.stderr)


def _guarded(main: Callable[[Console, list[str]], None]) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        # orbax logs routine work, and a traceback for every failed write we report ourselves.
        logging.set_verbosity(logging.FATAL)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what the encoding lacks is spelt out
                stream.reconfigure(errors="backslashreplace")
        try:
            return cluster.leave(_ended(main, arguments[1:]))
        except Exception:
            if jax.distributed.is_initialized():  # said here: JAX's own end waits for minutes
                traceback.print_exc()
                os._exit(cluster.leave(1))
            raise

    return run


def _ended(main: Callable[[Console, list[str]], None], arguments: list[str]) -> int:
    """Calls `main`; returns the exit code that its end stands for."""
    try:
        if not cluster.asked():  # several hosts must meet before JAX is asked for devices
            _check_backend()
        main(Console(), arguments)
    except UserError as error:
        _say(str(error))
        return 2
    except jax.errors.JaxRuntimeError as error:
        cluster.end_where_lost(error)
        raise
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        _say("interrupted")
        return 128 + signal.SIGINT
    return 0


def _check_backend() -> None:
    """Raises UserError where JAX_PLATFORMS names a device that is not there."""
    platforms = jax.config.jax_platforms
    if not platforms or platforms == "cpu":
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where a backend is missing
        reason = (str(error).splitlines() or ["no such device"])[0]
        raise UserError(
            f"JAX_PLATFORMS={platforms}: {reason}; unset JAX_PLATFORMS, or install JAX for "
            f"that device"
        ) from error


def run_with_arguments(main: Callable[[Console, list[str]], None]) -> None:
    """Parses flags, wherever they stand, and calls `main(console, other_arguments)`.

    A UserError is one line and exit code 2.
    """

    def parse(arguments: list[str]) -> list[str]:
        try:
            return _parse(arguments)
        except flags.Error as error:
            _say(str(error))
            sys.exit(2)

    flags.FLAGS.set_gnu_getopt()
    app.run(_guarded(main), flags_parser=parse)


def run(main: Callable[[Console], None]) -> None:
    """Parses flags and calls `main(console)`; other arguments are an error."""

    def without_arguments(console: Console, arguments: list[str]) -> None:
        if arguments:
            raise UserError(f"unexpected {arguments[0]!r}; flags look like --name=value")
        main(console)

    run_with_arguments(without_arguments)
