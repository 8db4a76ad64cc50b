"""Preference pairs for verse: one instruction, a poem that does everything asked, and one with one fault.

Both poems are the fine-tuned model's own samples, so a preference is learned on texts that the
policy really writes (on-policy). The verifier judges them: the chosen one has the form, rhymes,
keeps to the theme, repeats nothing and ends by itself; the rejected one fails in exactly one of
these, and the row says in which. `python -m lab_utils.data.verse_preference` re-makes
`datasets/verse_preference`.
"""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from lab_utils.data.card import update_card
from lab_utils.data.formats import write_jsonl
from lab_utils.data.verse_sft import instruction
from lab_utils.generation import Completion, chat_prompt, complete
from lab_utils.verse import FORMS, check, themes

FAULTS = ("form", "rhyme", "theme", "repetition")
TEST_SHARE = 0.25
TEMPERATURES = (0.2, 0.8, 1.0, 1.0, 1.0, 1.3)
"""One draw at each: the cold ones repeat themselves, the hot ones miss form and rhyme."""


@dataclass(frozen=True)
class Sample:
    """One poem and its faults, a subset of `FAULTS`; no fault makes it fit to be chosen."""

    text: str
    faults: tuple[str, ...]


def faults_of(completion: Completion, form: str, theme: str) -> tuple[str, ...]:
    """Which of `FAULTS` a completion has; a poem that was cut off has the fault `form`."""
    verdict = check(completion.text.strip(), form, theme)
    wrong = {
        "form": not (verdict.form_ok and completion.ended),
        "rhyme": not verdict.rhyme_ok,
        "theme": not verdict.theme_ok,
        "repetition": not verdict.repeats_ok,
    }
    return tuple(name for name in FAULTS if wrong[name])


def split_themes() -> dict[str, tuple[str, ...]]:
    """The themes of the split `preference`, cut into train and test: no theme is in both."""
    every = themes("preference")
    held_out = round(len(every) * TEST_SHARE)
    return {"train": every[held_out:], "test": every[:held_out]}


def message(form: str, theme: str) -> str:
    """The instruction of a pair: its wording hangs on form and theme, so that it can be said again."""
    return instruction(form, theme, list(FORMS).index(form) + themes("preference").index(theme))


def draw(model, tokenizer, asked: list[tuple[str, str]], seed: int) -> dict[tuple[str, str], list[Sample]]:
    """Samples by `model` for each `(form, theme)`: one at each of `TEMPERATURES`. Prints progress."""
    prompts = [chat_prompt(tokenizer, message(form, theme)) for form, theme in asked]
    drawn = defaultdict(list)
    for turn, temperature in enumerate(TEMPERATURES):
        outputs = complete(model, tokenizer, prompts, 90, temperature, seed=seed + turn)
        for pair, completion in zip(asked, outputs, strict=True):
            drawn[pair].append(Sample(completion.text.strip(), faults_of(completion, *pair)))
        print(f"temperature {temperature}: {len(prompts)} poems", flush=True)
    return drawn


def pair_up(samples: list[Sample], wanted: Counter, rng: random.Random) -> tuple[Sample, Sample] | None:
    """One faultless sample and one with a single fault, or None when there are no such two.

    Of the faults on offer the one met least often so far is taken; `wanted` is updated.
    """
    chosen = list({s.text: s for s in samples if not s.faults}.values())
    rejected = list({s.text: s for s in samples if len(s.faults) == 1}.values())
    if not chosen or not rejected:
        return None
    rarest = min(sorted({s.faults[0] for s in rejected}), key=lambda fault: wanted[fault])
    wanted[rarest] += 1
    return rng.choice(chosen), rng.choice([s for s in rejected if s.faults[0] == rarest])


def build(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl` and `test.jsonl` to `folder` and bring the figures of its card up to date.

    A pair with a traditional character in it is left out.

    Raises RuntimeError when fewer than 300 pairs come out: the policy is too good or too bad for this.
    """
    import opencc

    from lab_utils import models

    simplify = opencc.OpenCC("t2s").convert
    model, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    rng, made = random.Random(seed), {}
    for split, names in split_themes().items():
        asked = [(form, theme) for theme in names for form in FORMS]
        drawn, counts, rows = draw(model, tokenizer, asked, seed), Counter(), []
        rng.shuffle(asked)
        for pair in asked:
            found = pair_up(drawn[pair], counts, rng)
            if found and all(simplify(sample.text) == sample.text for sample in found):
                rows.append(_row(*pair, *found))
        made[split] = rows
        print(f"{split}: {len(rows)} pairs of {len(asked)} prompts, by fault {dict(counts)}", flush=True)
    if sum(map(len, made.values())) < 300:
        raise RuntimeError("fewer than 300 pairs came out of the policy's samples")
    for split, rows in made.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    update_card(folder)


def _row(form: str, theme: str, chosen: Sample, rejected: Sample) -> dict:
    return {
        "prompt": [{"role": "user", "content": message(form, theme)}],
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "fault": rejected.faults[0],
        "form": form,
        "theme": theme,
    }


if __name__ == "__main__":
    from lab_utils import course

    build(course.root() / "datasets" / "verse_preference")
