"""One exam for every policy that writes verse: sample poems, mark each, compare policies item by item."""

from lab_utils.data.builders.verse_sft import questions
from lab_utils.evaluation.intervals import Interval, bootstrap, paired_difference
from lab_utils.models.generation import chat_prompt, complete
from lab_utils.rewards import verse_form, verse_repetition, verse_rhyme, verse_theme, verse_tone

__all__ = ["MARKS", "change", "questions", "rates", "sit"]

MARKS = ("form", "rhyme", "theme", "tone", "good")
"""What a poem is marked for; see `sit`."""


def sit(
    model, tokenizer, rows: list[dict], temperature: float = 1.0, seed: int = 0, max_new_tokens: int = 90
):
    """A policy's answers to `rows`, one a row, with their marks: DataFrame of (rows,).

    Columns: `text`, `ended`, the marks of `MARKS`, and `distinct` (1 - repetition). `form` is 1 only
    for a poem that also ended by itself; `rhyme` only when it has the form and all even lines rhyme;
    `theme` and `tone` are shares; `good`: form and rhyme, and at least half of the theme touched.
    The same rows, temperature and seed give the same texts.
    """
    import pandas as pd

    prompts = [chat_prompt(tokenizer, row["messages"][0]["content"]) for row in rows]
    answers = complete(model, tokenizer, prompts, max_new_tokens, temperature, seed=seed)
    texts = [answer.text.strip() for answer in answers]
    columns = {name: [row[name] for row in rows] for name in ("form", "theme")}
    table = pd.DataFrame({"text": texts, "ended": [answer.ended for answer in answers]})
    table["form"] = verse_form(texts, **columns) * table["ended"]
    table["rhyme"] = (pd.Series(verse_rhyme(texts, **columns)) == 1.0) * table["form"]
    table["theme"] = verse_theme(texts, **columns)
    table["tone"] = verse_tone(texts, **columns)
    table["good"] = table["rhyme"] * (table["theme"] >= 0.5)
    table["distinct"] = verse_repetition(texts, **columns)
    return table


def rates(table, marks: tuple[str, ...] = MARKS) -> dict[str, Interval]:
    """Mean of each mark with its 95 % interval."""
    return {mark: bootstrap(table[mark].tolist()) for mark in marks}


def change(before, after, mark: str) -> Interval:
    """Interval of the mean of `after - before` on one mark, the same questions compared."""
    return paired_difference(before[mark].tolist(), after[mark].tolist())
