"""The recipes of `datasets/`: one module per data set, `python -m lab_utils.data.builders.NAME` re-makes its files.

Each has `build(folder, seed)`, which writes the files and brings the figures of the card up to date. What others take
from here is `verse_sft.instruction`: how the course asks for a poem.
"""

__all__ = ["movie_ratings", "verse_preference", "verse_sft"]
