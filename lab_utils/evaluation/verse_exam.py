"""One exam for every policy that writes verse: questions, sampled answers, marks, policies compared item by item."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab_utils.data.builders.verse_sft import instruction
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.intervals import Interval, bootstrap, paired_difference
from lab_utils.models.generation import chat_prompt, complete
from lab_utils.rewards import verse_form, verse_repetition, verse_rhyme, verse_theme, verse_tone
from lab_utils.verse import FORMS, themes

if TYPE_CHECKING:
    import pandas as pd

MARKS = ("form", "rhyme", "theme", "tone", "good")
"""What a poem is marked for; see `evaluate_policy`."""


def questions(split: str, count: int, forms: tuple[str, ...] = tuple(FORMS)) -> list[dict]:
    """`count` instructions on themes of `split`, the forms in turn: rows of messages, form, theme.

    Themes repeat, with another form, only when the split has fewer than `count`.
    Raises InvalidValue for a count that isn't positive, or beyond themes times forms.
    """
    names = themes(split)
    most = len(names) * len(forms)
    if not 0 < count <= most:
        raise InvalidValue(
            f"题数 (count) 应在 1 到 {most} 之间，收到 {count}", "少出几题，或多用几种诗体 (forms)"
        )
    rows = []
    for i in range(count):
        lap, place = divmod(i, len(names))
        form, theme = forms[(place + lap) % len(forms)], names[place]
        content = instruction(form, theme, i // len(forms))
        rows.append({"messages": [{"role": "user", "content": content}], "form": form, "theme": theme})
    return rows


def held_out_questions(per_form: int) -> list[dict]:
    """Instructions on held-out themes, `per_form` of each form, no theme twice.

    Each row: `messages` (one user turn), `form`, `theme`. Raises InvalidValue for more than there are themes.
    """
    unseen = themes("eval")
    if per_form * len(FORMS) > len(unseen):
        raise InvalidValue(
            f"留出的题目 (theme) 只有 {len(unseen)} 个，不够每种诗体 {per_form} 首",
            f"per_form 至多 {len(unseen) // len(FORMS)}",
        )
    return questions("eval", per_form * len(FORMS))


def evaluate_policy(
    model,
    tokenizer,
    rows: Sequence[dict],
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 90,
) -> "pd.DataFrame":
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


def mark_rates(table: "pd.DataFrame", marks: tuple[str, ...] = MARKS) -> dict[str, Interval]:
    """Mean of each mark of a table of `evaluate_policy`, with its 95 % interval."""
    return {mark: bootstrap(table[mark].tolist()) for mark in marks}


def paired_change(before: "pd.DataFrame", after: "pd.DataFrame", mark: str) -> Interval:
    """Interval of the mean of `after - before` on one mark, the same questions compared."""
    return paired_difference(before[mark].tolist(), after[mark].tolist())
