"""Helper package of the course: import what a lab needs from its modules.

Importing `lab_utils` itself loads nothing heavy; torch and the like are loaded by
the functions that need them.
"""

__version__ = "0.1.0"
