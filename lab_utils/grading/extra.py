"""Packages that only whoever grades needs: the extra `grade`. They are asked for before any work is done."""

from importlib.util import find_spec

from lab_utils.errors import Unavailable


def require(*packages: str) -> None:
    """Raises Unavailable, which names those of these packages that aren't installed, and how to get them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise Unavailable(
            f"没有安装 {'、'.join(missing)}，评分要用 (extra `grade`)",
            f"请运行 python -m pip install {' '.join(missing)}，再试一次",
        )
