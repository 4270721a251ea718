"""A wheel holds the scripts and configs of a checkout beside the code that they call."""

import pathlib
import shutil

import setuptools
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent


class BuildWithScripts(build_py):
    """Puts scripts/ and configs/ into the package, but not where it is installed in place."""

    def run(self):
        """Copies what is not there already; benchmarks need a checkout and stay out."""
        super().run()
        if self.editable_mode:
            return
        ignored = shutil.ignore_patterns("__pycache__", "benchmark*")
        for name in ("scripts", "configs"):
            there = pathlib.Path(self.build_lib, "vaejax", name)
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(ROOT / name, there, ignore=ignored)


setuptools.setup(cmdclass={"build_py": BuildWithScripts})
