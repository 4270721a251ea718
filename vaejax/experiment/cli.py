"""What the scripts share: `--config.key=value` flags, and errors on one line."""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from rich.console import Console

from vaejax import config as config_lib
from vaejax.errors import UserError

_OVERRIDE = "config_override"


def define_config(default: str | None = None) -> None:
    """Defines --config=FILE[:argument] and --config.any.key=value."""
    flags.DEFINE_string(
        "config",
        default,
        "config file, or file:argument; override any key with --config.some.key=value",
        required=default is None,
    )
    define_overrides()


def define_overrides() -> None:
    """Defines --config.any.key=value alone, for scripts that take the config of a run."""
    flags.DEFINE_multi_string(_OVERRIDE, [], "some.key=value; what --config.some.key=value means")


def overrides() -> dict[str, str]:
    """The values given as --config.any.key=value, by dotted path. Raises UserError."""
    overrides = {}
    for assignment in flags.FLAGS[_OVERRIDE].value:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--config.{path}: needs a value: --config.{path}=value")
        overrides[path] = value
    return overrides


def config() -> config_lib.Config:
    """The config that the flags describe. Raises UserError."""
    return config_lib.override_all(config_lib.load(flags.FLAGS.config), overrides())


def _parse(arguments: list[str]) -> list[str]:
    rewritten = []
    for argument in arguments:
        body = argument.lstrip("-")
        is_override = argument.startswith("-") and body.startswith("config.")
        if is_override:
            argument = f"--{_OVERRIDE}={body.removeprefix('config.')}"
        rewritten.append(argument)
    return flags.FLAGS(rewritten)


def _guarded(main: Callable[[Console, list[str]], None]) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        # orbax logs routine work, and a traceback for every failed write we report ourselves.
        logging.set_verbosity(logging.FATAL)
        try:
            main(Console(), arguments[1:])
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        return 0

    return run


def run_with_arguments(main: Callable[[Console, list[str]], None]) -> None:
    """Parses flags, wherever they stand, and calls `main(console, other_arguments)`.

    A UserError is one line and exit code 2.
    """

    def parse(arguments: list[str]) -> list[str]:
        try:
            return _parse(arguments)
        except flags.Error as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
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
