"""The verifier accepts right poems and names the fault of wrong ones. All poems here are ours."""

import pytest

from lab_utils import verse
from lab_utils.errors import InvalidValue

QUATRAIN = "山月照寒溪，松风过石堤。\n客来无一语，同听夜鸦啼。"
SEVENS = "小楼昨夜又听风，灯火人家细雨中。\n一卷旧书看未了，不知窗外已天红。"
EIGHT = (
    "春水绕村流，渔人自系舟。\n柳长初拂岸，花落渐盈沟。\n小雨鸣蛙鼓，斜阳卧老牛。\n归来无一事，新月上帘钩。"
)
EIGHT_SEVENS = (
    "一夜西风到小城，满街黄叶作秋声。\n楼高正见寒山出，江冷才知白露生。\n"
    "旧友书来多问病，新茶煮罢独闻莺。\n人间此味谁能会，窗下孤灯坐到明。"
)


@pytest.mark.parametrize(
    ("text", "form"),
    [(QUATRAIN, "五言绝句"), (SEVENS, "七言绝句"), (EIGHT, "五言律诗"), (EIGHT_SEVENS, "七言律诗")],
)
def test_right_poems_pass_in_their_own_form_only(text, form):
    verdict = verse.check(text, form)
    assert verdict and verdict.form_ok and verdict.rhyme_ok and verdict.repeats_ok
    assert verdict.faults == []
    assert verse.detect(text) == form
    for other in set(verse.FORMS) - {form}:
        assert not verse.check(text, other).form_ok


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        (lambda t: t.replace("过石堤", "又过石堤"), "line_length", 2),
        (lambda t: t.replace("松风过石堤。", ""), "line_count", 0),
        (lambda t: t + "\n明日再来时，花开满旧蹊。", "line_count", 0),
        (lambda t: "《山夜》\n" + t, "not_han", 1),
        (lambda t: t + "（完）", "not_han", 5),
        (lambda t: t.replace("山月", "ab"), "not_han", 1),
        (lambda t: t.replace("。", "，"), "punctuation", 2),
        (lambda t: t[:-1], "punctuation", 4),
        (lambda t: t.replace("夜鸦啼", "夜鸦飞"), "rhyme", 0),
        (lambda t: t.replace("夜鸦啼", "小河堤"), "rhyme", 0),
        (lambda t: t.replace("客来无一语", "山月照寒溪"), "repeated_line", 3),
        (lambda t: t.replace("客来无一语", "客来来来语"), "repeated_char", 3),
    ],
)
def test_names_the_fault_and_its_line(change, code, line):
    verdict = verse.check(change(QUATRAIN), "五言绝句")
    assert (code, line) in {(fault.code, fault.line) for fault in verdict.faults}
    good_form = code in {"rhyme", "repeated_line", "repeated_char"}
    assert verdict.form_ok == good_form
    if code == "rhyme":
        assert not verdict.rhyme_ok


@pytest.mark.parametrize("text", ["", " \n", "，。，。", "<|im_end|>", "a" * 5000, "\x00\ud83d", "诗" * 2000])
def test_never_raises_and_never_passes_on_other_text(text):
    verdict = verse.check(text, "五言绝句", theme="秋夜")
    assert not verdict and not verdict.form_ok
    assert 0 <= verdict.repetition < 1


def test_layout_does_not_matter_but_marks_do():
    flat = QUATRAIN.replace("\n", "")
    assert verse.check(flat, "五言绝句").form_ok
    assert verse.check(flat.replace("，", "，\n"), "五言绝句").form_ok
    assert verse.check(QUATRAIN.replace("啼。", "啼？"), "五言绝句").form_ok
    assert not verse.check(flat.replace("，", "").replace("。", "\n"), "五言绝句").form_ok


def test_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(InvalidValue, match="五言绝句"):
        verse.check(QUATRAIN, "五绝")


def test_repetition_counts_characters_seen_before():
    assert verse.repetition("山山水") == pytest.approx(1 / 3)
    assert verse.repetition("山水") == verse.repetition("") == 0
