"""The course's ruler: a verifier of classical Chinese verse (form, rhyme, repetition, theme)."""

from lab_utils.verse.form import FORMS, Fault, Verdict, check, detect, repetition, split_lines
from lab_utils.verse.rhyme import RHYME_GROUPS, common_rhyme, readings, rhyme_groups
from lab_utils.verse.themes import SPLITS, on_theme, theme_words, themes

__all__ = [
    "FORMS",
    "RHYME_GROUPS",
    "SPLITS",
    "Fault",
    "Verdict",
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
