"""Preference pairs for verse: one instruction, a poem that does everything asked for, and one with one fault.

Both poems are the fine-tuned model's own samples, so a preference is learned on texts that the
policy really writes (on-policy). The verifier judges them: the chosen one has the form, rhymes,
keeps to the theme, repeats nothing and ends by itself; the rejected one fails in exactly one of
these, and the row says in which.

Pairs are of three kinds. `whole`: two poems of one instruction, drawn apart. `ending`: one faultless
poem whose last character was drawn again, at one temperature for both sides. What the two share
cancels in every loss on their difference, so all that such a pair can say is said about the rhyme.
`matched`: the same, but of the characters drawn a rhyming and an unrhyming one that the policy finds
nearly equally likely, so that its own likelihood can't tell which is the better.
`python -m lab_utils.data.builders.verse_preference` re-makes `datasets/verse_preference`.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lab_utils.data.builders.verse_sft import instruction
from lab_utils.data.card import update_card
from lab_utils.data.jsonl import write_jsonl
from lab_utils.models.generation import Completion, chat_prompt, complete
from lab_utils.verse import FORMS, check, split_lines, themes

FAULTS = ("form", "rhyme", "theme", "repetition")
TEST_SHARE = 0.25
TEMPERATURES = (0.2, 0.8, 1.0, 1.0, 1.0, 1.3)
"""One draw at each: the cold ones repeat themselves, the hot ones miss form and rhyme."""
KINDS = ("whole", "ending", "matched")
BEGINNING_TEMPERATURES = (1.0, 1.0, 1.2, 1.2)
"""Further draws, of the poems that pairs of the kind `ending` are cut from."""
ENDINGS, ENDING_TEMPERATURE = 32, 1.2
"""Last characters drawn for each beginning; hot enough that one in eight misses the rhyme."""
MATCHED_WITHIN = 1.0
"""Nats between the log-probabilities of the two characters of a pair of the kind `matched`, at most."""


Requests = dict[str, list[tuple[str, str]]]
"""`(form, theme)` of each poem to ask for, by split."""


@dataclass(frozen=True)
class Sample:
    """One poem and its faults, a subset of `FAULTS`; no fault makes it fit to be chosen.

    `logp`: log-probability of its last character in nats, at `ENDING_TEMPERATURE`, of those drawn by
    `draw_endings`.
    """

    text: str
    faults: tuple[str, ...]
    logp: float = 0.0


Pick = Callable[[list[Sample]], tuple[Sample, Sample] | None]
"""Out of the samples for one instruction, the chosen and the rejected one, or None."""


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


def draw(
    model,
    tokenizer,
    requests: list[tuple[str, str]],
    seed: int,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> dict[tuple[str, str], list[Sample]]:
    """Samples by `model` for each `(form, theme)`: one at each of `temperatures`. Prints progress."""
    prompts = [chat_prompt(tokenizer, message(form, theme)) for form, theme in requests]
    drawn = defaultdict(list)
    for turn, temperature in enumerate(temperatures):
        outputs = complete(model, tokenizer, prompts, 90, temperature, seed=seed + turn)
        for pair, completion in zip(requests, outputs, strict=True):
            drawn[pair].append(Sample(completion.text.strip(), faults_of(completion, *pair)))
        print(f"temperature {temperature}: {len(prompts)} poems", flush=True)
    return drawn


def beginnings(
    drawn: dict[tuple[str, str], list[Sample]], taken: set[tuple[str, str]]
) -> list[tuple[str, str, str, str]]:
    """`(form, theme, beginning, mark)` of the faultless poems: all but the last character, and what ends it.

    A poem with a line in `taken`, the last line aside, is left out; the lines of the others join `taken`,
    so that no two pairs are nearly the same.
    """
    cut = []
    for (form, theme), samples in drawn.items():
        for sample in samples:
            lines = split_lines(sample.text)[:-1]
            if not sample.faults and taken.isdisjoint(lines):
                taken.update(lines)
                cut.append((form, theme, sample.text[:-2], sample.text[-1]))
    return cut


def draw_endings(model, tokenizer, cut: list[tuple[str, str, str, str]], seed: int) -> list[list[Sample]]:
    """For each of `beginnings`, `ENDINGS` poems with a last character drawn from what `model` gives next."""
    torch.manual_seed(seed)
    out = []
    for start in range(0, len(cut), 64):
        part = cut[start : start + 64]
        prompts = [chat_prompt(tokenizer, message(form, theme)) + text for form, theme, text, _ in part]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        with torch.no_grad():
            logits = model(**inputs, logits_to_keep=1).logits[:, -1].float().cpu()
        chances = (logits / ENDING_TEMPERATURE).softmax(-1)
        tokens = torch.multinomial(chances, ENDINGS, replacement=True).tolist()
        for (form, theme, text, mark), row, chance in zip(part, tokens, chances, strict=True):
            poems = [text + tokenizer.decode([token], skip_special_tokens=True) + mark for token in row]
            logps = chance[row].log().tolist()
            out.append(
                [
                    Sample(poem, faults_of(Completion(poem, True), form, theme), logp)
                    for poem, logp in zip(poems, logps, strict=True)
                ]
            )
    return out


def rarest_fault_pair(
    samples: list[Sample], wanted: Counter, rng: random.Random
) -> tuple[Sample, Sample] | None:
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


def nearest_pair(samples: list[Sample]) -> tuple[Sample, Sample] | None:
    """The faultless sample and the one that only misses the rhyme that are nearest in `logp`.

    None when there are no two within `MATCHED_WITHIN`.
    """
    chosen = [sample for sample in samples if not sample.faults]
    rejected = [sample for sample in samples if sample.faults == ("rhyme",)]
    pairs = [(good, bad) for good in chosen for bad in rejected]
    nearest = min(pairs, key=lambda pair: abs(pair[0].logp - pair[1].logp), default=None)
    if nearest is None or abs(nearest[0].logp - nearest[1].logp) > MATCHED_WITHIN:
        return None
    return nearest


def build(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl` and `test.jsonl` to `folder` and bring the figures of its card up to date.

    A pair with a traditional character in it is left out.

    Raises RuntimeError when fewer than 300 pairs of a kind come out: the policy is too good or too bad.
    """
    from lab_utils import models

    model, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    requests = {
        split: [(form, theme) for theme in names for form in FORMS] for split, names in split_themes().items()
    }
    made = whole_pairs(model, tokenizer, requests, seed)
    for number, kind in enumerate(("ending", "matched")):
        apart = seed + number * len(TEMPERATURES + BEGINNING_TEMPERATURES)
        for split, rows in ending_pairs(kind, model, tokenizer, requests, made, apart).items():
            made[split] += rows
    kinds = Counter(row["kind"] for rows in made.values() for row in rows)
    print({split: len(rows) for split, rows in made.items()}, dict(kinds), flush=True)
    if min(kinds[kind] for kind in KINDS) < 300:
        raise RuntimeError(f"fewer than 300 pairs of a kind came out of the policy's samples: {dict(kinds)}")
    for split, rows in made.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    update_card(folder)


def whole_pairs(model, tokenizer, requests: Requests, seed: int) -> dict[str, list[dict]]:
    """Rows of the kind `whole` for each split: at most one for each `(form, theme)`."""
    rng, made = random.Random(seed), {}
    for split, pairs in requests.items():
        drawn, shuffled = draw(model, tokenizer, pairs, seed), list(pairs)
        rng.shuffle(shuffled)
        groups = [(*pair, drawn[pair]) for pair in shuffled]
        made[split] = _rows("whole", groups, partial(rarest_fault_pair, wanted=Counter(), rng=rng))
    return made


def ending_pairs(
    kind: str, model, tokenizer, requests: Requests, met: dict[str, list[dict]], seed: int
) -> dict[str, list[dict]]:
    """Rows of the kind `ending` or `matched` for each split, from poems drawn for it alone.

    No line of the rows in `met` is in them but the last.
    """
    rows = [row for split in met.values() for row in split]
    poems = [row[side][0]["content"] for row in rows for side in ("chosen", "rejected")]
    lines = {line for poem in poems for line in split_lines(poem)}
    rng, made = random.Random(seed), {}
    for split, pairs in requests.items():
        drawn = draw(model, tokenizer, pairs, seed + len(TEMPERATURES), BEGINNING_TEMPERATURES)
        cut = beginnings(drawn, lines)
        endings = draw_endings(model, tokenizer, cut, seed)
        groups = [(form, theme, samples) for (form, theme, *_), samples in zip(cut, endings, strict=True)]
        rng.shuffle(groups)
        pick = nearest_pair if kind == "matched" else partial(rarest_fault_pair, wanted=Counter(), rng=rng)
        made[split] = _rows(kind, groups, pick)
    return made


def _rows(kind: str, groups: list[tuple[str, str, list[Sample]]], pick: Pick) -> list[dict]:
    """A row for each `(form, theme, samples)` that `pick` finds a pair in, all its characters simplified."""
    import opencc

    simplify, rows = opencc.OpenCC("t2s").convert, []
    for form, theme, samples in groups:
        pair = pick(samples)
        if pair and all(simplify(sample.text) == sample.text for sample in pair):
            rows.append(_row(kind, form, theme, *pair))
    return rows


def _row(kind: str, form: str, theme: str, chosen: Sample, rejected: Sample) -> dict:
    return {
        "prompt": [{"role": "user", "content": message(form, theme)}],
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "fault": rejected.faults[0],
        "kind": kind,
        "form": form,
        "theme": theme,
    }


if __name__ == "__main__":
    from lab_utils import course

    build(course.root() / "datasets" / "verse_preference")
