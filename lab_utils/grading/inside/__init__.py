"""What runs inside the sandbox, the only code of the course that is seen there; it imports nothing of lab_utils.

`runner` starts `server`, which forks a `child` for each answer. `cells`, `effects` and `slicing` decide what of a
notebook is run for it, `stand_ins` are there for what is not, `confine` takes away what the code must not do, and
`wire` carries values. Beside the standard library only IPython's reader of cells is imported.
"""

__all__ = ["cells", "child", "confine", "effects", "server", "slicing", "stand_ins", "wire"]
