"""scripts/sweep.py as the driver of a Ray cluster of its own, of two workers."""

import os
import subprocess
import sys

from run_script import ROOT

_DRIVER = """
import runpy, sys, ray
from vaejax.sweeps import launch
launch._run_here = None  # nothing is trained in this process
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
sys.argv[0] = "sweep.py"
runpy.run_path("scripts/sweep.py", run_name="__main__")
"""


def start_sweep(*arguments: str, stdout=subprocess.DEVNULL, **environment: str | None):
    """The process of `python scripts/sweep.py ARGUMENTS --launcher=ray`; None unsets a variable."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, *arguments, "--launcher=ray"],
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        stdout=stdout,
        start_new_session=True,
        text=True,
    )
