"""The card of the shipped model is what its report makes of the figures that lie beside it."""

import json
from pathlib import Path

from huggingface_hub import RepoCard

from lab_utils import models
from lab_utils.pretrain import report

FOLDER = Path(report.__file__).with_name("report")
CARD = models.ASSETS / models.SHIPPED / "README.md"


def test_the_shipped_card_is_made_from_the_shipped_figures(tmp_path):
    figures = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    counts = figures.pop("corpus")
    report.write(figures, FOLDER / "log.jsonl", counts, 6240256, tmp_path / "report", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == CARD.read_text(encoding="utf-8")
    for name in ("figures.json", "log.jsonl"):
        assert (tmp_path / "report" / name).read_bytes() == (FOLDER / name).read_bytes()
    assert (tmp_path / "report" / "training.png").stat().st_size > 10_000


def test_the_front_matter_is_read_by_the_hub_s_own_reader():
    facts = RepoCard.load(CARD).data.to_dict()
    assert facts["license"] == "apache-2.0"
    assert facts["pipeline_tag"] == "text-generation"
