"""The recipe's parts on small inputs of our own; the whole run is `python -m lab_utils.pretrain`."""

import json
import random
import tarfile

import pytest
import torch
from transformers import AutoTokenizer

from lab_utils import models
from lab_utils.errors import Unavailable
from lab_utils.pretrain import corpus, tokenizer, train
from lab_utils.verse import themes

LINES = ("山月照寒溪", "松风过石堤", "客来无一语", "同听夜鸦啼")
POEM = corpus.Poem("五言绝句", "山夜", LINES)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.build([POEM.text * 40], folder)
    return AutoTokenizer.from_pretrained(folder)


def test_one_token_a_character_and_bytes_for_the_rest(small):
    assert len(small.tokenize(POEM.text)) == len(POEM.text)
    for text in (POEM.text, "囉𠮷 abc\n1+2=3", "🙂"):
        assert small.decode(small(text).input_ids) == text
    assert small.tokenize("<|im_start|>assistant\n") == ["<|im_start|>", "assistant", "Ċ"]
    assert small.eos_token == "<|im_end|>" and small.pad_token == "<|endoftext|>"


def test_another_file_than_the_corpus_is_not_unpacked(tmp_path):
    packed = tmp_path / "chinese-poetry-2.0.1.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(__file__, "package/dist/poems.json")
    with pytest.raises(Unavailable, match=f"SHA-256.*{corpus.SHA256}"):
        corpus.unpack(packed, tmp_path)
    assert list(tmp_path.iterdir()) == [packed]


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("山夜二首", "山月照寒溪，松风过石堤。客来无一语，同听夜鸦啼。", POEM),
        ("山夜", "山月照寒溪（一作光），松风过石堤。客来无一语，同听夜鸦啼。", POEM),
        ("山夜", "山月照寒溪，松风过石堤。客来无一语，同听夜鸦叫。", "does not rhyme by modern reading"),
        ("山夜", "山月照寒溪，松风过石堤。", "not one of the four forms"),
        ("山夜", "山月照寒□，松风过石堤。客来无一语，同听夜鸦啼。", "not only Chinese characters"),
        ("山夜", "", "not only Chinese characters"),
    ],
)
def test_cleaning_keeps_or_says_why(title, text, expected):
    assert corpus._clean(title, text, False) == expected


def test_no_poem_titled_with_a_theme_of_the_labs_is_trained_on():
    poems = [corpus.Poem("五言绝句", theme, LINES) for theme in themes()[:50]] + [POEM] * 2_000
    parts = corpus.split(poems)
    assert {p.title for p in parts.train + parts.held_out} == {"山夜"}
    assert parts.counts["titled with a theme of the labs"] == 50
    assert len(parts.held_out) == corpus.HELD_OUT_POEMS and len(parts.train) == 500


def test_no_turn_of_the_assistant_is_a_whole_poem():
    rng = random.Random(0)
    long = corpus.Poem("五言律诗", "", LINES * 2)
    for poem in [POEM, long] * 200:
        document = corpus.linked_verse(poem, rng)
        for turn in document.split("<|im_start|>assistant\n")[1:]:
            lines = turn.split("<|im_end|>")[0]
            assert lines.count("，") + lines.count("。") not in (4, 8)
        assert document.count("<|im_start|>") == document.count("<|im_end|>")


def test_packing_cuts_and_loses_nothing():
    rng = random.Random(0)
    docs = [[i + 1] * rng.randint(1, 20) for i in range(200)] + [[9_999] * 65]
    packs = train.pack(docs, 64, pad_id=0)
    packed = []
    for ids, segment in zip(packs.ids, packs.segment, strict=True):
        assert ((segment == 0) == (ids == 0)).all()
        packed += [ids[segment == number].tolist() for number in range(1, int(segment.max()) + 1)]
    assert sorted(packed) == sorted(docs[:-1])


def test_packed_loss_equals_each_document_alone(small):
    torch.manual_seed(0)
    settings = train.Settings(hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8)
    model = train.make_model(settings, len(small), small).eval()
    docs = [small(text).input_ids for text in ("山月照寒溪，松风过石堤。", "客来无一语，", "同听夜鸦啼。")]
    packs = train.pack(docs, 32, pad_id=small.pad_token_id)
    assert len(packs.ids) == 1
    with torch.no_grad():
        together = train.weighted_loss(model, packs.ids, packs.segment, -1, 1.0)[0]
        alone = [model(input_ids=(t := torch.tensor([doc])), labels=t).loss * (len(doc) - 1) for doc in docs]
    assert together.item() == pytest.approx(sum(alone).item() / sum(len(d) - 1 for d in docs), rel=1e-5)


def test_training_resumes_where_it_stopped(small, tmp_path):
    settings = train.Settings(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        head_dim=8,
        batch_rows=2,
        pack_length=64,
        epochs=1,
    )
    docs, held = [POEM.text] * 40, [POEM] * 2
    train.train(settings, small, docs, held, tmp_path)
    first = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    folder = train.train(train.Settings(**vars(settings) | {"epochs": 2}), small, docs, held, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[: len(first)] == first and rows[-1]["step"] == 2 * first[-1]["step"]
    assert rows[-1]["train_loss"] < first[-1]["train_loss"]
    assert models.load(str(folder))[0].num_parameters() < 1_000_000


@pytest.mark.parametrize(("step", "factor"), [(0, 0.01), (99, 1), (400, 1), (700, 0.5), (1000, 0)])
def test_learning_rate_warms_up_and_decays_to_zero(step, factor):
    assert train.learning_rate_factor(step, 1000, train.Settings()) == pytest.approx(factor, abs=1e-9)
