"""`vaejax COMMAND ...`, also `python -m vaejax COMMAND ...`: the scripts, wherever one stands.

The same as `python scripts/COMMAND.py ...` in a checkout.
"""

import ast
import runpy
import sys

from vaejax import python_files
from vaejax.errors import nearest, shown

COMMANDS = (
    "train",
    "evaluate",
    "sample",
    "export",
    "gradients",
    "sweep",
    "compare",
    "rate_distortion",
    "explain",
)


def main() -> int:
    """Runs the script that the first argument names; its exit code, or 2 where there is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        legal = ", ".join(COMMANDS)
        line = f"error: unknown command {shown(name)}{nearest(name, COMMANDS)} (legal: {legal})"
        print(line, file=sys.stderr)
        return 2
    sys.argv = [f"vaejax {name}", *sys.argv[2:]]
    runpy.run_path(str(python_files.shipped(f"scripts/{name}.py")), run_name="__main__")
    return 0


def _usage() -> str:
    lines = ["usage: vaejax COMMAND --flag=value ...; vaejax COMMAND --help lists the flags", ""]
    for name in COMMANDS:
        text = python_files.shipped(f"scripts/{name}.py").read_text()
        about = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
        lines.append(f"  {name:<15} {about}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
