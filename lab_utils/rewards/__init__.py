"""Rewards for GRPO: functions `f(completions, **columns) -> list[float]`, for TRL and ms-swift alike.

`completions` are strings or conversations; columns of the data set arrive as keyword arguments, one
value per completion. Whatever a model writes, each completion gets one finite float; a missing
column of the data set is an error that names it.

`arithmetic`  five layered rewards for sums in an XML frame
`verse`       rewards from the course's verifier, and one that can be hacked
`preflight`   can these rewards and settings teach anything? Asked before a run
`columns`     what a reward function is given
"""

from lab_utils.rewards.arithmetic import (
    correct_answer,
    extract_answer,
    integer_answer,
    soft_xml,
    strict_xml,
    xml_tags,
)
from lab_utils.rewards.preflight import PreflightError, PreflightReport, RewardFigures, preflight
from lab_utils.rewards.verse import (
    theme_in_form,
    theme_word_count,
    verse_form,
    verse_form_graded,
    verse_repetition,
    verse_rhyme,
    verse_theme,
    verse_tone,
)

ARITHMETIC = (correct_answer, integer_answer, strict_xml, soft_xml, xml_tags)
VERSE = (
    verse_form,
    verse_form_graded,
    verse_rhyme,
    verse_theme,
    verse_repetition,
    verse_tone,
    theme_word_count,
    theme_in_form,
)
"""All reward functions, by subject. ms-swift knows them by these names with the plugin
(`lab_utils.swift.plugin_path`)."""

__all__ = [
    "ARITHMETIC",
    "VERSE",
    "PreflightError",
    "PreflightReport",
    "RewardFigures",
    "correct_answer",
    "extract_answer",
    "integer_answer",
    "preflight",
    "soft_xml",
    "strict_xml",
    "theme_in_form",
    "theme_word_count",
    "verse_form",
    "verse_form_graded",
    "verse_repetition",
    "verse_rhyme",
    "verse_theme",
    "verse_tone",
    "xml_tags",
]
