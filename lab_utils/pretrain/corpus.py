"""Corpus: regulated verse of Tang and Song from the npm package `chinese-poetry` (MIT).

The poems are in the public domain and stay out of this project's tree: they are read
from the package at training time, simplified (OpenCC t2s), cleaned and split.
"""

import hashlib
import json
import random
import re
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lab_utils.errors import Unavailable
from lab_utils.verse import FORMS, common_rhyme, readings, themes

PACKAGE = "chinese-poetry@2.0.1"
SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
"""Of the package's file, as `npm pack` downloads it."""
HELD_OUT_POEMS = 1_500
MAX_TITLE = 12
FORM_SHARE = {"五言绝句": 2.0, "七言绝句": 0.7, "五言律诗": 1.0, "七言律诗": 0.5}
"""How often a poem of each form is read in one epoch: short forms are rare, long ones costly."""
_HAN = re.compile(r"[\u4e00-\u9fff]+")
_MARKS = re.compile(r"[，。？！；、：]")
_SERIES = re.compile(r"(其[一二三四五六七八九十]+|[一二三四五六七八九十百]+[首绝章])$")


@dataclass(frozen=True)
class Poem:
    """A poem in simplified characters; `form` is a key of `FORMS` or 词."""

    form: str
    title: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Couplet by couplet, one a line: `上句，下句。`"""
        pairs = zip(self.lines[::2], self.lines[1::2], strict=True)
        return "\n".join(f"{upper}，{lower}。" for upper, lower in pairs)


def fetch(folder: Path) -> Path:
    """Download and unpack the npm package into `folder` once; its `dist` folder.

    Raises Unavailable when npm is missing or the registry can't be reached, and what `unpack` raises.
    """
    dist = folder / "package" / "dist"
    if dist.exists():
        return dist
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(
            f"取不到语料包 {PACKAGE}：{error}", "需要 npm (https://nodejs.org) 和网络 (npm registry)"
        ) from error
    unpack(next(folder.glob("chinese-poetry-*.tgz")), folder)
    return dist


def unpack(packed: Path, folder: Path) -> None:
    """Unpack the package's file into `folder`. Raises Unavailable, and leaves it unopened, when it is another file."""
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise Unavailable(
            f"语料包 {PACKAGE} 的 SHA-256 是 {digest}，应该是 {SHA256}",
            "没有解开它；请检查 npm 的源 (npm config get registry)，删掉这个文件再运行一次",
            str(packed),
        )
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")


def read_poems(dist: Path) -> tuple[list[Poem], dict[str, int]]:
    """All usable poems, and how many rows each cleaning step dropped and why."""
    import opencc

    simplify = opencc.OpenCC("t2s").convert
    poems: list[Poem] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    rows = []
    for dynasty in ("tang", "song"):
        files = (dist / "quantangshi").glob(f"poet.{dynasty}.*.json")
        for path in sorted(files, key=lambda p: int(p.name.split(".")[2])):
            rows += [(x.get("title"), x["paragraphs"], False) for x in json.loads(path.read_text())]
    for path in sorted((dist / "songci").glob("ci.song.*.json")):
        rows += [(x.get("rhythmic"), x["paragraphs"], True) for x in json.loads(path.read_text())]
    for title, paragraphs, is_ci in rows:
        poem = _clean(simplify(title or ""), simplify("".join(paragraphs)), is_ci)
        if isinstance(poem, str):
            dropped[poem] += 1
        elif poem.lines in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(poem.lines)
            poems.append(poem)
    return poems, dict(dropped)


def _clean(title: str, text: str, is_ci: bool) -> Poem | str:
    """A poem, or the reason why it is dropped."""
    text = re.sub(r"[（(【\[].*?[）)】\]]|\s", "", text)
    lines = tuple(line for line in _MARKS.split(text) if line)
    title = _SERIES.sub("", re.sub(r"\s", "", title))
    if not lines or not all(_HAN.fullmatch(line) for line in lines):
        return "not only Chinese characters"
    if is_ci:
        return Poem("词", title, lines) if len(lines) % 2 == 0 else "odd number of lines"
    shape = (len(lines), len(lines[0]))
    form = next((name for name, wanted in FORMS.items() if wanted == shape), None)
    if form is None or len({len(line) for line in lines}) > 1:
        return "not one of the four forms"
    ends = [line[-1] for line in lines[1::2]]
    if not common_rhyme(ends, most=None):  # lenient: old sounds live on in rare readings
        return "does not rhyme by modern reading"
    return Poem(form, title, lines)


@dataclass(frozen=True)
class Split:
    """Documents to train on, poems held out for the loss, and what was counted."""

    train: list[Poem]
    held_out: list[Poem]
    ci: list[Poem]
    counts: dict[str, int]


def split(poems: list[Poem], seed: int = 0) -> Split:
    """Hold out `HELD_OUT_POEMS` poems, and drop every poem titled with one of the labs' themes."""
    lab_themes = set(themes())
    verse = [p for p in poems if p.form in FORMS and p.title not in lab_themes]
    ci = [p for p in poems if p.form == "词"]
    random.Random(seed).shuffle(verse)
    counts = Counter(p.form for p in verse)
    counts["titled with a theme of the labs"] = len(poems) - len(ci) - len(verse)
    return Split(verse[HELD_OUT_POEMS:], verse[:HELD_OUT_POEMS], ci, dict(counts))


def titled(poem: Poem, rng: random.Random) -> str:
    """A poem as a document: mostly under its title, some headed by form, some bare."""
    if not poem.title or len(poem.title) > MAX_TITLE or not _HAN.fullmatch(poem.title):
        return f"<|endoftext|>{poem.text}"
    draw = rng.random()
    if draw < 0.2:
        return f"{poem.form}《{poem.title}》\n{poem.text}"
    return f"《{poem.title}》\n{poem.text}" if draw < 0.95 else f"<|endoftext|>{poem.text}"


def linked_verse(poem: Poem, rng: random.Random) -> str:
    """A poem as a ChatML conversation, couplets changing hands (联句, linked verse).

    This is where the base meets the ChatML tokens. No turn of the assistant has the
    four or eight lines of a poem, so carrying out an instruction stays to be learned.
    """
    turns, rest, role = [], list(poem.lines), "user"
    while rest:
        size = rng.choice((1, 2, 2, 3, 6)) if role == "assistant" else rng.choice((1, 2, 2, 4))
        if role == "assistant" and min(size, len(rest)) in (4, 8):
            size = 3
        part, rest = rest[:size], rest[size:]
        marks = ["，" if i % 2 == 0 else "。" for i in range(len(part))]
        body = "".join(line + mark for line, mark in zip(part, marks, strict=True))
        turns.append(f"<|im_start|>{role}\n{body}<|im_end|>\n")
        role = "assistant" if role == "user" else "user"
    return "".join(turns).rstrip("\n")


def rhyme_list(groups: dict[str, list[str]], rng: random.Random) -> str:
    """Two dozen level-tone characters of one rhyme group, as rhyme books list them."""
    group = rng.choice(sorted(groups))
    return "韵：" + "".join(rng.sample(groups[group], min(24, len(groups[group]))))


def sums(rng: random.Random) -> str:
    """Five additions or subtractions of whole numbers below 100: the model's only arithmetic."""
    out = []
    for _ in range(5):
        a, b = rng.randrange(50), rng.randrange(50)
        out.append(f"{a}+{b}={a + b}" if rng.random() < 0.6 else f"{a + b}-{b}={a}")
    return "\n".join(out)


def level_rhymes(poems: list[Poem], least: int = 20) -> dict[str, list[str]]:
    """Level-tone characters by rhyme group, of those that end a rhyming line `least` times."""
    ends = Counter(line[-1] for poem in poems for line in poem.lines[1::2])
    groups: dict[str, list[str]] = {}
    for char, count in ends.items():
        sounds = readings(char, most=None)
        if count >= least and len(sounds) == 1 and next(iter(sounds))[1] in (1, 2):
            groups.setdefault(next(iter(sounds))[0], []).append(char)
    return {name: chars for name, chars in groups.items() if len(chars) >= 8}


def documents(parts: Split, seed: int = 0) -> list[str]:
    """The training documents, shuffled: verse, 4 % linked verse in ChatML, rhyme lists, sums."""
    rng = random.Random(seed)
    groups = level_rhymes(parts.train)
    docs = [titled(poem, rng) for poem in _balanced(parts.train, rng)]
    chats = rng.sample(parts.ci, min(5_000, len(parts.ci))) + rng.sample(parts.train, 4_000)
    docs += [linked_verse(poem, rng) for poem in chats]
    docs += [rhyme_list(groups, rng) for _ in range(6_000)]
    docs += [sums(rng) for _ in range(2_000)]
    rng.shuffle(docs)
    return docs


def _balanced(poems: list[Poem], rng: random.Random) -> list[Poem]:
    """Poems repeated or sampled by `FORM_SHARE`."""
    chosen = []
    for form, share in FORM_SHARE.items():
        of_form = [p for p in poems if p.form == form]
        chosen += of_form * int(share) + rng.sample(of_form, round(len(of_form) * (share % 1)))
    return chosen
