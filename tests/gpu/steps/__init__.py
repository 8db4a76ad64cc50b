"""What `check.py` does on a GPU, one module a step; each has `run(report, dry)` and runs in a process of its own."""
