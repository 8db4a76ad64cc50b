"""Grading: submissions in, scores out. A student's code runs in a sandbox; values are compared outside it."""
