"""Rhyme of Chinese verse by modern reading.

Rule. A character's rhyme is the group of its Mandarin final. The groups are those of
the *Zhonghua Xinyun* (中华新韵, Chinese Poetry Society, 2005) with two changes that
the later *Zhonghua Tongyun* (中华通韵, 2019) made: zhi/chi/shi/ri rhyme with yi, and
yu stands alone. A character belongs to the groups of its two most common readings
(还 is huan and hai; rarer readings would let nearly anything rhyme). Lines rhyme when
one group contains the last character of every even line and no two of these characters
are the same. Tang poets rhymed by older sounds, so human verse passes this rule often,
not always.
"""

from functools import lru_cache

RHYME_GROUPS = {
    "麻": "a ia ua",
    "波": "o e uo ê",
    "皆": "ie üe ve",
    "支": "-i i er",
    "姑": "u",
    "鱼": "ü v",
    "开": "ai uai",
    "微": "ei uei ui",
    "豪": "ao iao",
    "尤": "ou iou iu",
    "寒": "an ian uan üan van",
    "文": "en in uen un ün vn",
    "唐": "ang iang uang",
    "庚": "eng ing ong iong ueng",
}
_GROUP_OF_FINAL = {final: name for name, finals in RHYME_GROUPS.items() for final in finals.split()}


@lru_cache(maxsize=20_000)
def readings(char: str, most: int | None = 2) -> frozenset[tuple[str, int]]:
    """Readings of one character as `(rhyme group, tone)`, tone 1-4, 5 for neutral.

    The `most` common ones, or all of them for None. Empty for a character without a
    Mandarin reading.
    """
    from pypinyin import Style, pinyin

    finals = pinyin(
        char,
        style=Style.FINALS_TONE3,
        heteronym=True,
        strict=True,
        neutral_tone_with_five=True,
        errors="ignore",
    )
    sounds = set()
    for final in finals[0][:most] if finals else []:
        sound, tone = final.rstrip("12345"), final[-1:]
        if sound in _GROUP_OF_FINAL and tone in "12345":
            sounds.add((_GROUP_OF_FINAL[sound], int(tone)))
    return frozenset(sounds)


def rhyme_groups(char: str, most: int | None = 2) -> frozenset[str]:
    """Rhyme groups of one character, over the readings that `readings` gives."""
    return frozenset(group for group, _ in readings(char, most))


def common_rhyme(chars: list[str], most: int | None = 2) -> frozenset[str]:
    """Groups that contain every character of `chars`; empty when they do not rhyme.

    Identical characters do not rhyme with each other, they repeat: a list in which
    a character occurs twice has no common rhyme.
    """
    if not chars or len(set(chars)) < len(chars):
        return frozenset()
    return frozenset.intersection(*(rhyme_groups(char, most) for char in chars))
