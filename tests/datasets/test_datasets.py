"""Every folder under datasets/ is what its card says, and fit for publishing."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from opencc import OpenCC

from lab_utils.data.card import measure, read_card, text_of
from lab_utils.data.schema import row_faults, schema_faults

ROOT = Path(__file__).parents[2] / "datasets"
NAMES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
MAX_SIMILARITY = 0.7
TO_SIMPLIFIED = OpenCC("t2s")
PRIVATE = {
    "手机号": re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)"),
    "座机号": re.compile(r"(?<!\d)0\d{2,3}-\d{7,8}(?!\d)"),
    "电子邮箱": re.compile(r"[\w.+-]+@[\w-]+\.\w+", re.ASCII),
    "身份证号": re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)"),
    "密钥": re.compile(r"(?<![A-Za-z0-9])(?:sk-|hf_|ghp_|AKIA)[A-Za-z0-9]{12,}|-----BEGIN"),
}


@pytest.fixture(params=NAMES)
def card(request):
    return read_card(ROOT / request.param)


def strings(value):
    """All strings in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)


def near_duplicates(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs (i, j, Jaccard of their character 3-grams), i > j, at or over `threshold`; marks don't count."""
    pairs, holders, sizes = [], defaultdict(list), []
    for i, text in enumerate(texts):
        bare = "".join(char for char in text if char.isalnum())
        grams = {bare[k : k + 3] for k in range(max(1, len(bare) - 2))}
        shared = Counter(j for gram in grams for j in holders[gram])
        for j, common in shared.items():
            score = common / (len(grams) + sizes[j] - common)
            if score >= threshold:
                pairs.append((i, j, score))
        for gram in grams:
            holders[gram].append(i)
        sizes.append(len(grams))
    return pairs


def private(text: str) -> list[str]:
    return [name for name, pattern in PRIVATE.items() if pattern.search(text)]


def test_there_are_data_sets():
    assert {"classical_modern", "medical_qa", "movie_ratings"} <= set(NAMES)


def test_card_says_who_what_and_under_which_license(card):
    meta = card.meta
    assert meta["name"] == card.folder.name
    assert meta["license"] == "Apache-2.0"
    assert meta["title"] and meta["language"] and meta["distinct_fields"]
    assert card.prose.count("\n## ") >= 3


def test_card_lists_every_file(card):
    listed = {entry["path"] for entry in card.meta["files"]}
    assert listed == {path.name for path in card.folder.iterdir()} - {"README.md"}


def test_card_counts_and_hashes_match_the_files(card):
    for key, value in measure(card).items():
        assert card.meta[key] == value, f"{key} 已过时：运行 lab_utils.data.card.update_card"


def test_rows_follow_the_schema(card):
    for entry in card.meta["files"]:
        schema = card.schema(entry["path"])
        assert schema_faults(schema) == []
        rows = enumerate(card.read(entry["path"]), 1)
        assert {i: found for i, row in rows if (found := row_faults(row, schema))} == {}


def test_prose_explains_every_field(card):
    for entry in card.meta["files"]:
        for field in card.schema(entry["path"]):
            assert f"| `{field}` |" in card.prose


def test_files_are_plain_lines(card):
    for entry in card.meta["files"]:
        content = (card.folder / entry["path"]).read_bytes()
        assert content.endswith(b"\n") and not content.endswith(b"\n\n")
        assert b"\r" not in content and not content.startswith(b"\xef\xbb\xbf")
        assert rb"\u" not in content, "汉字应直接写出 (ensure_ascii=False)"


def test_ids_are_unique(card):
    ids = [row["id"] for row in card.rows() if "id" in row]
    assert len(set(ids)) == len(ids)
    assert len(ids) in (0, card.meta["rows"])


def test_no_text_occurs_twice_or_nearly(card):
    rows = card.rows()
    for field in card.meta["distinct_fields"]:
        texts = [text_of(row[field]) for row in rows if field in row]
        assert texts
        repeated = [text for text, count in Counter(texts).items() if count > 1]
        assert repeated == []
        found = [(texts[i], texts[j], score) for i, j, score in near_duplicates(texts, MAX_SIMILARITY)]
        assert found == []


def test_strings_are_trimmed_simplified_and_private_to_nobody(card):
    for row in card.rows():
        for text in strings(row):
            assert text == text.strip()
            assert TO_SIMPLIFIED.convert(text) == text
            assert private(text) == []


def test_medical_card_says_it_is_no_advice():
    card = read_card(ROOT / "medical_qa")
    assert "不构成医疗建议" in card.meta["notice"]
    assert "NOTICE" in card.prose and "不构成医疗建议" in card.prose


def test_every_rating_is_one_of_a_film_by_a_user_in_half_stars():
    card = read_card(ROOT / "movie_ratings")
    films = {row["movieId"] for row in card.rows("movies")}
    ratings = card.rows("ratings")
    pairs = {(row["userId"], row["movieId"]) for row in ratings}
    assert len(pairs) == len(ratings)
    assert {film for _, film in pairs} == films == set(range(1, len(films) + 1))
    assert {row["rating"] for row in ratings} == {half / 2 for half in range(1, 11)}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("打13800138000找他", "手机号"),
        ("电话010-12345678", "座机号"),
        ("写信到li.si@example.com", "电子邮箱"),
        ("号码11010519491231002X。", "身份证号"),
        ("用sk-abcdefghijklmnop登录", "密钥"),
    ],
)
def test_private_patterns_catch_examples(text, kind):
    assert private(text) == [kind]


def test_private_patterns_pass_ordinary_numbers():
    assert private("请拨打120，血压140/90毫米汞柱，2024年5月") == []


def test_near_duplicates_finds_a_changed_character_and_no_more():
    texts = [
        "春天来了，河里的冰都化了，鸭子下了水。",
        "秋天的夜里听见虫声。",
        "春天来了河里的冰都化了鸭子下了河",
    ]
    assert [(i, j) for i, j, _ in near_duplicates(texts, 0.7)] == [(2, 0)]


def test_near_duplicates_score_is_the_jaccard_index():
    ((i, j, score),) = near_duplicates(["一二三四五", "二三四五六"], 0.1)
    assert (i, j, score) == (1, 0, 2 / 4)
