"""The course's own instruction set: "write a poem of this form on this theme".

Made by rejection sampling: the shipped base model writes under a heading it knows from
pretraining (`五言绝句《秋夜》`), the verifier keeps what has the form, rhymes, keeps to the
theme and repeats nothing, and the kept poem becomes the answer to an instruction.
`python -m lab_utils.data.builders.verse_sft` re-makes `datasets/verse_sft`.
"""

import random
from pathlib import Path

from lab_utils.data.card import update_card
from lab_utils.data.jsonl import write_jsonl
from lab_utils.models.generation import complete
from lab_utils.verse import FORMS, check, themes

INSTRUCTIONS = (
    "写一首{form}，题目：{theme}",
    "请以《{theme}》为题，作一首{form}。",
    "以“{theme}”为题写{form}一首。",
    "请写一首题为《{theme}》的{form}。",
)


def instruction(form: str, theme: str, variant: int = 0) -> str:
    """The user's message that asks for one poem; `variant` picks the wording, any int."""
    return INSTRUCTIONS[variant % len(INSTRUCTIONS)].format(form=form, theme=theme)


def rejection_sample(model, tokenizer, pairs: list[tuple[str, str]], rounds: int = 12, seed: int = 0) -> dict:
    """Poems by `model` for `(form, theme)` pairs, at most one a pair: those the verifier passes.

    Draws for the pairs still open, `rounds` times. Prints how many each round kept.
    """
    kept: dict[tuple[str, str], str] = {}
    for turn in range(rounds):
        todo = [pair for pair in pairs if pair not in kept]
        prompts = [f"{form}《{theme}》\n" for form, theme in todo]
        drawn = complete(model, tokenizer, prompts, 84, 0.8, 0.95, seed=seed + turn) if prompts else []
        for pair, completion in zip(todo, drawn, strict=True):
            poem = completion.text.strip()
            verdict = check(poem, *pair)
            good = verdict and verdict.theme_ok and verdict.repeats_ok and completion.ended
            if good and poem not in kept.values():
                kept[pair] = poem
        print(f"round {turn + 1}: {len(drawn)} drawn, {len(kept)} of {len(pairs)} kept", flush=True)
    return kept


def build(folder: Path, per_form: int = 640, seed: int = 0) -> None:
    """Write `train.jsonl` to `folder` and bring the figures of its card up to date.

    Raises RuntimeError when fewer than 500 poems of a form pass: the base is not good enough.
    """
    from lab_utils import models

    model, tokenizer = models.load(models.SHIPPED)
    rng = random.Random(seed)
    pairs = [(form, theme) for form in FORMS for theme in rng.sample(themes("sft"), per_form)]
    kept = rejection_sample(model, tokenizer, pairs, seed=seed)
    rows = []
    for i, ((form, theme), poem) in enumerate(kept.items()):
        messages = [
            {"role": "user", "content": instruction(form, theme, i)},
            {"role": "assistant", "content": poem},
        ]
        rows.append({"messages": messages, "form": form, "theme": theme})
    for form in FORMS:
        count = sum(row["form"] == form for row in rows)
        if count < 500:
            raise RuntimeError(f"only {count} {form} passed the verifier; 500 are needed")
    rng.shuffle(rows)
    write_jsonl(folder / "train.jsonl", rows)
    update_card(folder)


if __name__ == "__main__":
    from lab_utils import course

    build(course.root() / "datasets" / "verse_sft")
