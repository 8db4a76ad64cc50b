"""The course itself: which labs exist, what they cost, where their files are, and what they measured.

- `LABS`, `Lab`, `lab`: the manifest, read from `manifest.toml`, the one place for titles, times and points;
- `root`, `dataset`, `output`: folders of the course;
- `record`: figures that a lab measures while it runs;
- `card`, `readme_table`: what is shown of the manifest, in Markdown.

Standard library only.
"""

from lab_utils.course.cards import card, readme_table
from lab_utils.course.figures import record
from lab_utils.course.manifest import LABS, Lab, lab
from lab_utils.course.paths import dataset, output, root

__all__ = ["LABS", "Lab", "card", "dataset", "lab", "output", "readme_table", "record", "root"]
