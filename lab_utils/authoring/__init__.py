"""The instructors' side: from a lab's master to its two notebooks, and what is held about them.

- `master` reads a master: cells, exercises, checks; `dependencies` says which cells an exercise reaches;
- `build` makes both notebooks and compares them with the master; `readme` keeps the table of labs;
- `lint` judges what is written, by the rules there and the words in `terms`;
- `run` executes headless and measures; `inverted` executes the student notebook as it is handed out.

Each gives a list of `master.Finding`; the `labs` command prints them. Nothing is imported here: what
executes notebooks is heavy.
"""
