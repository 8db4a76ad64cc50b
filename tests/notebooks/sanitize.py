"""What nbval takes out of outputs before it compares them: `python sanitize.py FOLDER` prints it for a course there.

The rules of `nbval_sanitize.cfg` find a course's folder by what lies in it, and end at a blank; the folder whose
notebooks are executed is known, and comes first, whatever its path holds.
"""

import re
import sys
from pathlib import Path

RULES = Path(__file__).with_name("nbval_sanitize.cfg")


def rules(root: Path) -> str:
    """The rules as nbval reads them, for notebooks executed in the course's folder `root`."""
    ours = f"# The folder of this course.\n[this course]\nregex: {re.escape(str(root))}(?=/)\nreplace: …\n\n"
    return ours + RULES.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(rules(Path(sys.argv[1]).resolve()), end="")
