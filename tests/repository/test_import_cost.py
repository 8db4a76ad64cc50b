"""Importing the package is cheap, and loads none of the heavy libraries."""

import json
import subprocess
import sys

from lab_utils.setup_environment import ROOT

HEAVY = {"torch", "transformers", "swift", "peft", "trl", "datasets", "pandas", "matplotlib"}


def test_import_takes_at_most_a_tenth_of_torch():
    command = [sys.executable, "tests/benchmarks/bench_import.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["ratio"] <= 0.1


def test_the_ground_floor_loads_nothing_heavy():
    modules = "course, doctor, models, plots, profile, cli"
    program = f"import sys; from lab_utils import {modules}; from lab_utils.evaluation import intervals; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
