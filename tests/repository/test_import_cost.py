"""Importing the package is cheap, and loads none of the heavy libraries."""

import subprocess
import sys

from lab_utils.setup_environment import ROOT

HEAVY = {"torch", "transformers", "swift", "peft", "trl", "datasets", "pandas", "matplotlib"}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement`."""
    command = [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_at_most_a_tenth_of_what_torch_loads():
    nothing = modules_after("pass")
    assert len(modules_after("import lab_utils") - nothing) <= 0.1 * len(
        modules_after("import torch") - nothing
    )


def test_the_ground_floor_loads_nothing_heavy():
    modules = "course, doctor, models, plots, profile, cli"
    program = f"from lab_utils import {modules}\nfrom lab_utils.evaluation import intervals"
    assert HEAVY & modules_after(program) == set()
