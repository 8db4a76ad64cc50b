"""The instructors' side: from a lab's master to its two notebooks, and what is held about them.

`master` reads a master, `build` makes and compares notebooks, `lint` judges what is written,
`run` executes headless and measures, `inverted` executes the student notebook.
"""
