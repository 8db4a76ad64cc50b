"""The course's ruler: a verifier of classical Chinese verse.

`form`    is this text one poem of the form asked for? `check` gives a `PoemVerdict` with its `Fault`s
`rhyme`   rhyme groups and tones by modern reading
`themes`  the themes, split once and for all, and what it means to keep to one
"""

from lab_utils.verse.form import FORMS, Fault, PoemVerdict, check, detect, repetition, split_lines
from lab_utils.verse.rhyme import RHYME_GROUPS, common_rhyme, readings, rhyme_groups
from lab_utils.verse.themes import SPLITS, on_theme, theme_words, themes

__all__ = [
    "FORMS",
    "RHYME_GROUPS",
    "SPLITS",
    "Fault",
    "PoemVerdict",
    "check",
    "common_rhyme",
    "detect",
    "on_theme",
    "readings",
    "repetition",
    "rhyme_groups",
    "split_lines",
    "theme_words",
    "themes",
]
