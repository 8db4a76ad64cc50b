"""Rewards give every completion one finite number, the right one, in TRL and in ms-swift alike."""

import inspect
import json
import math
import random
import sys
import time

import numpy as np
import pytest

from lab_utils import course, rewards, swift
from lab_utils.rewards import (
    ARITHMETIC,
    VERSE,
    PreflightError,
    correct_answer,
    extract_answer,
    integer_answer,
    preflight,
    soft_xml,
    strict_xml,
    theme_in_form,
    theme_word_count,
    verse_form,
    verse_form_graded,
    verse_repetition,
    verse_rhyme,
    verse_theme,
    verse_tone,
    xml_tags,
)
from lab_utils.verse import FORMS, check, repetition, themes

EVERY = (*ARITHMETIC, *VERSE)
COLUMNS = ("answer", "form", "theme")

RIGHT = "<reasoning>12 是 3 个 4。</reasoning>\n<answer>3</answer>"
POEM = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
MOON = "月月月月月，月月月月月。月月月月月，月月月月月。"


def columns(count: int) -> dict:
    return {"answer": ["3"] * count, "form": ["五言绝句"] * count, "theme": ["山楼"] * count}


def one(function, text, **given) -> float:
    """The reward of one completion."""
    names = {name: [value] for name, value in given.items()}
    (value,) = function([text], **{**columns(1), **names})
    return value


@pytest.fixture(scope="module")
def sft_rows() -> list[dict]:
    path = course.root() / "datasets" / "verse_sft" / "train.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:300]]


# Arithmetic


def test_right_completion_gets_every_layer():
    assert [one(f, RIGHT) for f in ARITHMETIC] == [2.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("1,000", "1000", 2.0),
        ("1000", "1,000", 2.0),
        ("１，０００", 1000, 2.0),
        ("1 000", 1000, 2.0),
        ("\u3000 12\n", 12, 2.0),
        ("12.0", 12, 2.0),
        ("12", 12.0, 2.0),
        ("012", 12, 2.0),
        ("−5", -5, 2.0),
        ("-0", 0, 2.0),
        ("+7", 7, 2.0),
        ("0.50", 0.5, 2.0),
        ("100000000000000000000", 1e20, 2.0),
        ("9007199254740993", "9007199254740992", 0.0),  # equal as floats
        ("3 4", 34, 0.0),
        ("1,00", 100, 0.0),
        ("10²", 102, 0.0),
        ("3 个", 3, 0.0),
        ("1 2 3 4", 3, 0.0),
        ("3/1", 3, 0.0),
        ("٣", 3, 0.0),
        ("", 0, 0.0),
        ("nan", 0, 0.0),
    ],
)
def test_numbers_are_compared_by_value(text, answer, reward):
    assert one(correct_answer, f"<answer>{text}</answer>", answer=answer) == reward


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RIGHT, "3"),
        ("<answer> 4\n</answer>", "4"),
        ("<answer>1</answer> 不对 <answer>2</answer>", "2"),
        ("<answer>1</answer> 再想 <answer>2", "1"),
        ("答案是 3", ""),
        ("<answer>3", ""),
        ("3</answer>", ""),
        ("</answer>3<answer>", ""),
        ("", ""),
    ],
)
def test_the_last_complete_answer_counts(text, found):
    assert extract_answer(text) == found


@pytest.mark.parametrize(
    ("text", "reward"),
    [("3", 0.5), ("-1,234", 0.5), ("42.0", 0.0), ("3.5", 0.0), ("三", 0.0), ("3 元", 0.0), ("", 0.0)],
)
def test_integer(text, reward):
    assert one(integer_answer, f"<answer>{text}</answer>") == reward


@pytest.mark.parametrize(
    ("text", "strict", "soft", "tags"),
    [
        (RIGHT, 0.5, 0.5, 0.5),
        ("<reasoning>\n甲\n乙\n</reasoning>\n<answer>\n3\n</answer>", 0.5, 0.5, 0.5),
        (RIGHT + "\n", 0.0, 0.5, 0.5),
        (RIGHT.replace("\n", ""), 0.0, 0.5, 0.5),
        (RIGHT.replace("\n", "\n\n"), 0.0, 0.5, 0.5),
        ("好的。" + RIGHT, 0.0, 0.5, 0.5),
        (RIGHT + "完了", 0.0, 0.5, 0.498),
        (RIGHT.replace("\n", "所以"), 0.0, 0.0, 0.5),
        ("<reasoning></reasoning>\n<answer>3</answer>", 0.0, 0.0, 0.5),
        ("<reasoning>甲</reasoning>\n<answer> </answer>", 0.0, 0.0, 0.5),
        ("<answer>3</answer>\n<reasoning>甲</reasoning>", 0.0, 0.0, 0.5 - 0.001 * 24),
        ("<reasoning>甲\n<answer>3</answer>", 0.0, 0.0, 0.375),
        (RIGHT.replace("<answer>", "<answer><answer>"), 0.0, 0.0, 0.375),
        ("<answer>3", 0.0, 0.0, 0.125),
        ("答案是 3", 0.0, 0.0, 0.0),
        (RIGHT + "啊" * 5000, 0.0, 0.5, 0.375),
        ("</answer>" * 300, 0.0, 0.0, 0.0),
    ],
)
def test_xml_layers(text, strict, soft, tags):
    found = [one(f, text) for f in (strict_xml, soft_xml, xml_tags)]
    assert found == pytest.approx([strict, soft, tags])


@pytest.mark.parametrize("answer", ["三", "#### 3", None, "", True, float("nan"), float("inf"), [3]])
def test_an_answer_that_is_no_number_is_the_data_sets_fault(answer):
    with pytest.raises(ValueError, match=r"answer 的第 2 个值.*不是一个数"):
        correct_answer([RIGHT, RIGHT], answer=["3", answer])


# Verse


def test_good_poem():
    assert [one(f, POEM) for f in (verse_form, verse_form_graded, verse_rhyme, verse_theme)] == [1.0] * 4
    assert one(verse_repetition, POEM) == 1.0


def test_rewards_agree_with_the_verifier(sft_rows):
    rng = random.Random(0)
    texts, forms = [], []
    for row in sft_rows:
        lines = row["messages"][1]["content"].split("\n")
        other = rng.choice(sft_rows)["messages"][1]["content"].split("\n")
        texts += ["\n".join(lines), "\n".join([*lines[:-1], other[-1]]), "\n".join(lines[1:])]
        forms += [row["form"], row["form"], rng.choice(list(FORMS))]
    verdicts = [check(text, form) for text, form in zip(texts, forms, strict=True)]
    right, rhyming, graded, varied = (
        f(texts, form=forms) for f in (verse_form, verse_rhyme, verse_form_graded, verse_repetition)
    )
    assert 0 < sum(right) < len(right) and any(v.form_ok and not v.rhyme_ok for v in verdicts)
    for i, verdict in enumerate(verdicts):
        assert (right[i] == 1) == (graded[i] == 1) == verdict.form_ok
        if verdict.form_ok:
            assert (rhyming[i] == 1) == verdict.rhyme_ok
            assert varied[i] == pytest.approx(1 - repetition("".join(verdict.lines)))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (POEM[:12], 0.5),
        (POEM.replace("千里目", "千里"), 0.75),
        (POEM + POEM, 0.5),
        (POEM.replace("楼。", "楼"), 0.75),
        ("abcde，abcde。abcde，abcde。", 0.0),
        ("", 0.0),
    ],
)
def test_graded_form_counts_right_lines(text, reward):
    assert one(verse_form_graded, text) == reward
    assert one(verse_form, text) == 0.0


LONG = "甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。"


@pytest.mark.parametrize(
    ("ends", "reward"),
    [
        ("流楼舟秋", 1.0),
        ("流楼舟山", 0.75),
        ("流楼山寒", 0.5),
        ("流山人风", 0.0),
        ("流流流流", 0.0),
        ("流流楼舟", 0.75),
    ],
)
def test_rhyme_is_the_share_of_the_biggest_group(ends, reward):
    assert one(verse_rhyme, LONG.format(*ends), form="五言律诗") == reward


def test_one_rhyming_couplet_is_not_a_poem():
    assert one(verse_rhyme, POEM, form="五言律诗") == 0.5
    assert one(verse_rhyme, "白日依山尽，黄河入海流。") == 0.0
    assert one(verse_rhyme, LONG.format(*"流楼舟秋")) == 0.5  # eight lines, of which four were wanted


@pytest.mark.parametrize(
    ("text", "form", "reward"),
    [
        (POEM, "五言绝句", 1.0),
        ("白日依山尽，" * 2, "五言绝句", 0.5),
        ("一二三四五，" * 4, "五言绝句", 0.0),  # 二 and 四 are both oblique
        ("朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。", "七言绝句", 1.0),
        ("朝辞白帝彩月间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。", "七言绝句", 0.75),
        (POEM, "七言绝句", 0.0),
    ],
)
def test_tone_alternates_at_even_places(text, form, reward):
    assert one(verse_tone, text, form=form) == reward


def test_tone_tells_verse_from_shuffled_characters(sft_rows):
    rng = random.Random(0)
    texts, forms = [r["messages"][1]["content"] for r in sft_rows], [r["form"] for r in sft_rows]
    every = [c for text in texts for c in text if c not in "，。！？；\n"]
    shuffled = ["".join(c if c in "，。！？；\n" else rng.choice(every) for c in text) for text in texts]
    assert np.mean(verse_tone(texts, form=forms)) > 0.8
    assert np.mean(verse_tone(shuffled, form=forms)) < 0.6


@pytest.mark.parametrize(
    ("text", "reward"), [("", 0.0), ("月", 1 / 20), (MOON, 1 / 20), (POEM + POEM, 20 / 40)]
)
def test_saying_little_does_not_escape_the_repetition_reward(text, reward):
    assert one(verse_repetition, text) == pytest.approx(reward)


def test_theme_counts_each_image_once():
    assert one(verse_theme, "霜霜霜霜", theme="秋夜") == 0.5
    assert one(verse_theme, "霜落月明", theme="秋夜") == 1.0
    assert one(verse_theme, "千山静", theme="秋夜") == 0.0


def test_counting_theme_words_can_be_hacked_and_the_other_can_not():
    poem = "霜落千山静，灯残一梦长。\n西风何处客，明月满胡床。"
    texts, given = [poem, MOON, "月" * 500], {"form": ["五言绝句"] * 3, "theme": ["秋夜"] * 3}
    hacked, mended = theme_word_count(texts, **given), theme_in_form(texts, **given)
    assert hacked[0] < hacked[1] < hacked[2] == 500.0
    assert mended == [1.0, 0.0, 0.0]


# What arrives


def test_a_missing_column_is_named():
    for function in EVERY:
        needed = [name for name in COLUMNS if name in inspect.signature(function).parameters]
        for name in needed:
            given = {key: value for key, value in columns(1).items() if key != name}
            with pytest.raises(ValueError, match=f"缺少 {name}"):
                function([RIGHT], **given)
            for wrong in (["x", "y"], []):
                with pytest.raises(ValueError, match=f"{name} 有 {len(wrong)} 个值，completions 有 1 个"):
                    function([RIGHT], **given, **{name: wrong})
            with pytest.raises(ValueError, match=f"{name} 应是一列值"):
                function([RIGHT], **given, **{name: "3"})


@pytest.mark.parametrize("form", ["五绝", None, 5, ["五言绝句"]])
def test_an_unknown_form_is_named(form):
    for function in (verse_form, theme_in_form):
        with pytest.raises(ValueError, match=r"form 的第 2 个值.*五言绝句、七言绝句"):
            function([POEM, POEM], form=["五言绝句", form], theme=["秋夜"] * 2)


@pytest.mark.parametrize("theme", ["", " ", None, 5])
def test_a_theme_that_is_none_is_named(theme):
    for function in (verse_theme, theme_word_count):
        with pytest.raises(ValueError, match="theme 的第 1 个值"):
            function([POEM], theme=[theme])


def test_completions_in_one_string_are_refused():
    for function in EVERY:
        with pytest.raises(ValueError, match="completions 应是一列回答"):
            function(POEM, **columns(len(POEM)))


def test_conversations_get_the_reward_of_their_text():
    for function in EVERY:
        for text in (RIGHT, POEM):
            parts = [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]
            turns = [
                [{"role": "assistant", "content": text}],
                [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": text}],
                [{"role": "assistant", "content": parts}],
            ]
            assert [one(function, turn) for turn in turns] == [one(function, text)] * 3


ODD = [
    None,
    "",
    0,
    3.5,
    float("nan"),
    True,
    b"bytes",
    {},
    [],
    [None],
    [[]],
    [[{"role": "assistant", "content": "x"}]],
    [{"role": "assistant"}],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "content": [None, {"text": None}, {"text": 3}, "x"]}],
    [{"role": "user", "content": "x"}],
    [{"content": "x"}],
    {"role": "assistant", "content": "x"},
    ("x",),
    object(),
    "\u202e<answer>3</answer>\u202c",
    "\x00\x1b[31m\ufeff\u200b",
    "\ud800",
    "💮" * 20,
]


def test_odd_completions_get_a_finite_float():
    for function in EVERY:
        values = function(ODD, **columns(len(ODD)))
        assert len(values) == len(ODD)
        assert all(type(value) is float and math.isfinite(value) for value in values)
        assert function([], **columns(0)) == []


def test_random_texts_get_a_finite_float_within_bounds():
    rng = random.Random(0)
    pieces = [*"，。！？；\n\t \u3000月山水abc0123456789,.-+＋－，０９²٣\u202e\x00\ud800𠀀💮", "<answer>"]
    pieces += ["</answer>", "<reasoning>", "</reasoning>", "\n", "白日依山尽", "黄河入海流", RIGHT, POEM]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(4000)]
    texts += ["".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(30))) for _ in range(1000)]
    texts += [RIGHT, POEM]
    top = {correct_answer: 2.0, integer_answer: 0.5, strict_xml: 0.5, soft_xml: 0.5, xml_tags: 0.5}
    for function in EVERY:
        values = function(texts, **columns(len(texts)))
        bound = math.inf if function is theme_word_count else top.get(function, 1.0)
        assert len(values) == len(texts)
        assert all(type(value) is float and math.isfinite(value) for value in values)
        assert all(0.0 <= value <= bound for value in values)
        assert len(set(values)) > 1  # the texts reach more than the floor


MEGA = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" + "9" * MEGA + "</answer>",
        "<answer>1" + " 111" * (MEGA // 4) + "x</answer>",
        "<answer>1" + " " * MEGA + "x</answer>",
        "<answer>" * (MEGA // 8),
        "<reasoning>" * (MEGA // 22) + "</reasoning>" * (MEGA // 24),
        "，" * MEGA,
        "\n" * MEGA + "x",
        "月" * MEGA,
    ],
    ids=lambda text: text[:12].strip(),
)
def test_a_megabyte_takes_no_longer_than_its_length(text):
    start = time.process_time()
    for function in EVERY:
        assert math.isfinite(one(function, text))
    assert time.process_time() - start < 2.0  # measured 0.1 s; backtracking would take hours


# TRL and ms-swift


def test_trl_calls_every_reward_and_logs_it_by_name(tmp_path, tiny_qwen3, train_grpo):
    from datasets import Dataset

    prompt = [{"role": "user", "content": "写一首五言绝句"}]
    data = Dataset.from_list(
        [
            {"prompt": prompt, "answer": "3", "form": "五言绝句", "theme": theme}
            for theme in themes("reward")[:2]
        ]
    )
    trainer = train_grpo(tiny_qwen3(), EVERY, data, tmp_path, 1)
    logged = trainer.state.log_history[0]
    for function in EVERY:
        assert math.isfinite(logged[f"rewards/{function.__name__}/mean"])


@pytest.fixture(scope="module")
def plugin():
    """The plugin as ms-swift's `--external_plugins` loads it."""
    from swift.rewards import orms
    from swift.utils.utils import import_external_file

    before, path = dict(orms), list(sys.path)
    import_external_file(str(swift.plugin_path()))  # puts the plugin's folder on sys.path
    assert all(orms[name] is kind for name, kind in before.items())  # none of ms-swift's own is replaced
    yield orms
    sys.path[:] = path


def test_swift_scores_completions_as_we_do(tmp_path, plugin):
    import torch
    from swift.dataset import load_dataset
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    texts = [RIGHT, POEM, MOON, "", "<answer>3</answer>", POEM[:12]]
    rows = [
        {"messages": [{"role": "user", "content": str(i)}], "answer": str(i), "form": form, "theme": "秋夜"}
        for i, form in zip(range(6), list(FORMS) * 2, strict=False)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    loaded, _ = load_dataset(str(path), remove_unused_columns=False, load_from_cache_file=False)
    samples = [GRPOSample.from_row(dict(row)) for row in loaded]
    for sample, text in zip(samples, texts, strict=True):
        sample.messages = [*sample.messages, {"role": "assistant", "content": text}]
    functions = [plugin[f.__name__](args=None) for f in EVERY]
    assert [type(f).__name__ for f in functions] == [f.__name__ for f in EVERY]
    found = compute_rewards_per_func(samples, functions, None, torch.device("cpu"))
    given = {name: [row[name] for row in rows] for name in COLUMNS}
    ours = torch.tensor([f(texts, **given) for f in EVERY]).T
    torch.testing.assert_close(found, ours, rtol=0, atol=0)


# Preflight


def ready(**changed):
    """Preflight of a probe that can learn, with something changed."""
    setting = {
        "reward_functions": [verse_form, verse_form_graded],
        "groups": [[POEM, "春"], [POEM, POEM]],
        "rows": [{"prompt": str(i), "form": "五言绝句", "theme": "山楼"} for i in range(2)],
        "num_generations": 2,
        "generation_batch_size": 8,
        "temperature": 1.0,
    }
    return preflight(**{**setting, **changed})


def refused(**changed) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        ready(**changed)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_a_probe_that_can_learn_is_reported():
    report = ready(reward_weights=[1.0, 2.0])
    assert (report.groups, report.num_generations) == (2, 2)
    form, graded = report.rewards
    assert (form.name, form.mean, form.std, form.zero_std_groups) == ("verse_form", 0.75, 0.5, 0.5)
    assert graded.name == "verse_form_graded"
    assert (report.total.mean, report.total.zero_std_groups) == (2.25, 0.5)
    assert report.silent == ()
    assert "verse_form：平均 0.750" in str(report) and "50% 的组" in str(report)


def test_std_is_what_trl_logs():
    import torch
    from trl.trainer.utils import nanstd

    values = verse_form_graded([POEM, "春", POEM, POEM], form=["五言绝句"] * 4)
    assert ready().rewards[1].std == pytest.approx(nanstd(torch.tensor(values)).item())


def test_a_reward_that_says_nothing_yet_is_pointed_out():
    report = ready(reward_functions=[verse_form, verse_rhyme], groups=[[POEM, POEM[:-1]]] * 2)
    assert report.silent == ("verse_rhyme",)
    assert "verse_rhyme 在每一组里都一样" in str(report)


def test_columns_and_prompts_arrive_as_in_trl():
    seen = {}

    def length(prompts, completions, form, **kwargs):
        seen.update(prompts=prompts, form=form, **kwargs)
        return [float(len(text)) for text in completions]

    ready(reward_functions=[length])
    assert seen["prompts"] == ["0", "0", "1", "1"] and seen["theme"] == ["山楼"] * 4
    assert "trainer_state" in seen and "prompt" not in seen


def test_swift_objects_are_accepted(plugin):
    report = ready(reward_functions=[plugin["verse_form"]()])
    assert report.rewards[0].name == "verse_form"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"generation_batch_size": 7}, ["不能整除", "generation_batch_size=7", "改成 8", "7 之一"]),
        ({"generation_batch_size": 1}, ["不能整除", "改成 2"]),
        ({"num_generations": 1, "groups": [[POEM], ["春"]]}, ["num_generations=1", "改成 2 以上"]),
        ({"temperature": 0.0}, ["贪心", "0.7"]),
        ({"temperature": float("nan")}, ["贪心"]),
        (
            {"groups": [[POEM, POEM + "\n"], ["春", "夏"]]},
            ["reward std = 0", "verse_form = 0 到 1", "verse_form_graded = 0 到 1"],
        ),
        ({"groups": [["春", "夏"], ["秋", "冬"]]}, ["verse_form = 0；", "分级"]),
        ({"reward_weights": [0.0, 0.0]}, ["reward_weights"]),
        ({"groups": [[POEM, POEM], ["春", "春"]]}, ["一字不差", "temperature"]),
    ],
)
def test_settings_that_can_not_learn_are_refused(changed, words):
    (problem,) = refused(**changed)
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, ["NoneType", "不是数的列表"]),
        (np.zeros(4), ["ndarray"]),
        (1.0, ["float，不是数的列表"]),
        ([1.0], ["返回了 1 个奖励，回答有 4 个"]),
        ([1.0, None, 0.0, 0.0], ["第 2 个回答", "None，不是数"]),
        ([1.0, 0.0, "1", 0.0], ["第 3 个回答", "'1'"]),
        ([1.0, 0.0, 0.0, float("nan")], ["第 4 个回答", "NaN"]),
        ([float("inf"), 0.0, 0.0, 0.0], ["第 1 个回答", "inf"]),
    ],
)
def test_broken_reward_functions_are_refused_by_name(values, words):
    def broken(completions, **kwargs):
        return values

    (problem,) = refused(reward_functions=[verse_form, broken])
    assert problem.startswith("broken ") and all(word in problem for word in words), problem


def test_a_failing_reward_function_is_refused_with_its_error():
    (problem,) = refused(reward_functions=[correct_answer])
    assert problem.startswith("correct_answer 出错") and "缺少 answer" in problem


def test_all_problems_come_at_once():
    def broken(completions, **kwargs):
        return None

    assert len(refused(reward_functions=[broken], generation_batch_size=3, temperature=0.0)) == 3


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"groups": [], "rows": []}, "至少要有"),
        ({"reward_functions": []}, "至少要有"),
        ({"rows": [{"form": "五言绝句"}]}, "rows 有 1 行"),
        ({"groups": [[POEM, "春"], [POEM]]}, "第 2 组有 1 个回答"),
        ({"rows": [{"form": "五言绝句"}, {}]}, "字段不一样"),
        ({"reward_weights": [1.0]}, "reward_weights 有 1 个"),
    ],
)
def test_a_malformed_probe_is_an_error_of_its_own(changed, word):
    with pytest.raises(ValueError, match=word) as caught:
        ready(**changed)
    assert not isinstance(caught.value, PreflightError)


def test_every_reward_is_listed_and_exported():
    names = {function.__name__ for function in EVERY}
    assert names <= set(rewards.__all__) and len(names) == len(EVERY)
