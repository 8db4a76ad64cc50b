"""Every theme is in one split; a poem keeps to its theme when it touches half of its images. The poem is ours."""

import pytest

from lab_utils import verse
from lab_utils.errors import InvalidValue

QUATRAIN = "山月照寒溪，松风过石堤。\n客来无一语，同听夜鸦啼。"


def test_every_theme_is_in_exactly_one_split():
    splits = [set(verse.themes(name)) for name in verse.SPLITS]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(verse.themes())
    assert len(verse.themes("eval")) >= 400 and len(verse.themes("sft")) >= 640
    with pytest.raises(InvalidValue, match="eval"):
        verse.themes("test")


def test_theme_needs_half_of_its_images():
    assert verse.on_theme("孤舟听雨眠", "秋江听雨")
    assert verse.on_theme("月下听蝉", "月夜闻笛") and not verse.on_theme("桃李满园", "月夜闻笛")
    assert verse.check(QUATRAIN, "五言绝句", "山月").theme_ok
    assert verse.check(QUATRAIN, "五言绝句", "荷花").theme_ok is False
    assert verse.check(QUATRAIN, "五言绝句").theme_ok is None
