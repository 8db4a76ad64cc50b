"""Every check of every lab, for tests that hold for all of them."""

from importlib import import_module

from lab_utils import course
from lab_utils.checks import Check

MODULES = {lab.slug: import_module(f"lab_utils.checks.{lab.slug}") for lab in course.LABS}
"""Slug of a lab -> its checks."""

CHECKS = [value for module in MODULES.values() for value in vars(module).values() if isinstance(value, Check)]
NAMES = [f"{slug}.{v.name}" for slug, m in MODULES.items() for v in vars(m).values() if isinstance(v, Check)]
