"""What the finished base model can do: figures, samples, loss curve and model card."""

import json
import random
from pathlib import Path

from lab_utils import verse
from lab_utils.evaluation.intervals import Interval, bootstrap
from lab_utils.evaluation.verse_exam import held_out_questions
from lab_utils.files import write_atomic
from lab_utils.models.generation import chat_prompt, complete

SAMPLES = 200


def chance_rhyme(poems: list, rounds: int = 20_000, seed: int = 0) -> float:
    """How often the even line ends of a quatrain rhyme when drawn from all even line ends at random."""
    rng = random.Random(seed)
    ends = [line[-1] for poem in poems for line in poem.lines[1::2]]
    return sum(bool(verse.common_rhyme(rng.sample(ends, 2))) for _ in range(rounds)) / rounds


def measure(model, tokenizer, parts, dropped: dict[str, int]) -> dict:
    """Figures of the model on themes it has never seen, sampled at temperature 0.8, top_p 0.95.

    `parts`: the corpus split; `dropped`: rows dropped in cleaning, by reason.
    """
    themes = verse.themes("eval")[:SAMPLES]
    titled = complete(model, tokenizer, [f"《{t}》\n" for t in themes], 90, 0.8, 0.95, seed=1)
    forms = [verse.detect(c.text) if c.ended else None for c in titled]
    right = [(c.text.strip(), form) for c, form in zip(titled, forms, strict=True) if form]
    verdicts = [verse.check(text, form) for text, form in right]
    quatrains = [v for v in verdicts if len(v.lines) == 4]
    rows = held_out_questions(per_form=50)
    chats = complete(
        model, tokenizer, [chat_prompt(tokenizer, r["messages"][0]["content"]) for r in rows], 96
    )
    obeyed = [verse.check(c.text, r["form"]).form_ok and c.ended for c, r in zip(chats, rows, strict=True)]
    kept = sum(n for name, n in parts.counts.items() if name in verse.FORMS)
    no_rhyme = dropped["does not rhyme by modern reading"]
    known = {line for poem in parts.train for line in poem.lines}
    lines = [line for v in verdicts for line in v.lines]
    return {
        "one_of_four_forms": _figures(bootstrap([form is not None for form in forms])),
        "forms": {form: forms.count(form) for form in verse.FORMS},
        "quatrain_rhyme": _figures(bootstrap([v.rhyme_ok for v in quatrains])),
        "rhyme": _figures(bootstrap([v.rhyme_ok for v in verdicts])),
        "rhyme_by_chance": round(chance_rhyme(parts.held_out), 4),
        "rhyme_of_human_verse": round(kept / (kept + no_rhyme), 4),
        "repeated_characters": round(sum(v.repetition for v in verdicts) / len(verdicts), 4),
        "poems_with_repeated_lines_or_characters": round(
            1 - sum(v.repeats_ok for v in verdicts) / len(verdicts), 4
        ),
        "lines_found_in_corpus": round(sum(line in known for line in lines) / len(lines), 4),
        "instruction_form_pass": _figures(bootstrap(obeyed)),
        "chat_turn_ended": round(sum(c.ended for c in chats) / len(chats), 4),
        "samples": [{"theme": t, "text": c.text.strip()} for t, c in zip(themes[:8], titled, strict=False)],
        "chat_samples": [
            {"prompt": r["messages"][0]["content"], "text": c.text}
            for r, c in zip(rows[:4], chats, strict=False)
        ],
    }


def write(figures: dict, log: Path, counts: dict, parameters: int, folder: Path, card: Path) -> None:
    """Write `figures.json` and the loss curve to `folder`, and the model card to `card`."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    write_atomic(folder / "log.jsonl", log.read_text())
    known = json.dumps(figures | {"corpus": counts}, ensure_ascii=False, indent=1)
    write_atomic(folder / "figures.json", known + "\n")
    _draw(rows, folder / "training.png")
    write_atomic(card, _card(figures, rows, counts, parameters))


def _figures(interval: Interval) -> dict:
    return {
        "value": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
    }


def _draw(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lab_utils import plots

    plots.use_course_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["train_loss"] for row in rows], color=plots.SOFT, label="训练")
    left.plot(steps, [row["held_out_loss"] for row in rows], color=plots.DARK, label="留出的诗")
    left.set(title="损失 (loss)", xlabel="步数 (step)", ylabel="纳特 / 词元 (nats per token)")
    left.legend(frameon=False)
    right.plot(steps, [row["rhyme_mass"] for row in rows], color=plots.BRIGHT)
    right.set(title="第四句末字落在第二句的韵上的概率", xlabel="步数 (step)", ylabel="概率", ylim=(0, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rate(figure: dict) -> str:
    return f"{figure['value']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}], n={figure['n']}"


def _front() -> str:
    """The card's front matter."""
    from huggingface_hub import ModelCardData

    facts = ModelCardData(
        license="apache-2.0", language="zh", library_name="transformers", pipeline_tag="text-generation"
    )
    return f"---\n{facts.to_yaml()}\n---\n"


def _measured(figures: dict) -> str:
    """The card's table of what was measured."""
    return f"""| | |
| --- | --- |
| Given a title, exactly one of the four forms, and stopped | {_rate(figures["one_of_four_forms"])} |
| Quatrains that rhyme (chance: {figures["rhyme_by_chance"]:.1%}; human verse, all readings allowed: {figures["rhyme_of_human_verse"]:.1%}) | {_rate(figures["quatrain_rhyme"])} |
| All poems of a right form that rhyme | {_rate(figures["rhyme"])} |
| Characters that already occurred in the poem | {figures["repeated_characters"]:.1%} |
| Poems with a repeated line, or a character three times in a line | {figures["poems_with_repeated_lines_or_characters"]:.1%} |
| Lines found word for word in the corpus | {figures["lines_found_in_corpus"]:.1%} |
| Asked in chat for a poem of a form: has that form (greedy) | {_rate(figures["instruction_form_pass"])} |
"""


def _card(figures: dict, rows: list[dict], counts: dict, parameters: int) -> str:
    samples = "\n\n".join(f"《{s['theme']}》\n```\n{s['text']}\n```" for s in figures["samples"][:4])
    last = rows[-1]
    forms = ", ".join(f"{name} {counts[name]:,}" for name in verse.FORMS)
    return f"""{_front()}# xiaoshi-base 小诗

A small base model that writes classical Chinese verse, made for teaching: small enough to fine-tune on two
CPU cores in minutes, and every effect of fine-tuning on it can be verified by a program. Not for other use.

| | |
| --- | --- |
| Architecture | Qwen3, {parameters:,} parameters, tied embeddings, one token a character |
| Data | Tang and Song verse of the npm package chinese-poetry 2.0.1 (MIT; the poems are in the public domain), simplified by OpenCC: {forms} poems |
| Left out | poems that do not rhyme by modern reading; {counts["titled with a theme of the labs"]:,} poems titled with a theme of the labs |
| Besides verse | 9,000 linked verses in ChatML (no turn of the assistant is a whole poem), 6,000 rhyme lists, 2,000 lists of sums |
| Training | {last["step"]:,} steps, {last["epoch"]:.2f} epochs, Muon and AdamW, bfloat16 autocast on two CPU cores |
| Held-out loss | {last["held_out_loss"]:.3f} nats per token |
| Weights | stored in bfloat16, loaded in float32 |
| License | Apache-2.0 |

Made by `python -m lab_utils.pretrain`; the recipe is in `lab_utils/pretrain/`, the log and the figures in
`lab_utils/pretrain/report/`.

## Measured

On {SAMPLES} themes that no training poem has as its title, temperature 0.8, top_p 0.95; 95 % intervals.

{_measured(figures)}
## Samples

{samples}

## Limits

It knows verse, two-digit sums and nothing else. It carries out no instruction before fine-tuning. It writes
as the poets of its corpus did, their views included.
"""
