"""Bad preference pairs are found by line and field; good ones arrive whole in TRL and in ms-swift."""

import copy
import json

import pytest

from lab_utils.data.jsonl import DataError, write_jsonl
from lab_utils.data.loss_mask import encode
from lab_utils.data.preference import in_batches, leaks, read_pairs, to_swift, validate_pairs
from lab_utils.verse import check

BETTER = "霜落千山静，灯残一梦长。\n西风何处客，明月满胡床。"
WORSE = "霜落千山静，灯残一梦回。\n西风何处客，明月满胡床。"


def turn(role: str, content) -> list[dict]:
    return [{"role": role, "content": content}]


def pair(prompt="写一首五言绝句，题目：秋夜", chosen=BETTER, rejected=WORSE, **columns) -> dict:
    return {
        "prompt": turn("user", prompt),
        "chosen": turn("assistant", chosen),
        "rejected": turn("assistant", rejected),
        **columns,
    }


def problems(source, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        validate_pairs(source, *args, **kwargs)
    assert all(problem.fix and str(problem) for problem in caught.value.problems)
    return caught.value.problems


GOOD = pair("甲", theme="秋夜")


def test_good_pairs_are_reported(tmp_path, tokenizer):
    rows = [GOOD, pair("乙", chosen="长一些", rejected="短")]
    report = validate_pairs(write_jsonl(tmp_path / "train.jsonl", rows), tokenizer, judge=lambda row, text: 0)
    assert (report.rows, report.prompts, report.ties) == (2, 2, 2)
    assert report.chosen_length == (len(BETTER) + 3) / 2 and report.rejected_length == (len(WORSE) + 1) / 2
    assert report.chosen_longer == 0.5
    assert report.longest == len(encode(tokenizer, GOOD["prompt"] + GOOD["chosen"])[0])
    assert "2 对" in str(report) and "50%" in str(report) and "分不出高下的 2 对" in str(report)
    plain = validate_pairs(rows)
    assert (plain.longest, plain.ties) == (None, None)
    assert "词元" not in str(plain) and "评判" not in str(plain)


def test_read_pairs_gives_the_rows_of_a_good_file_only(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [GOOD])
    assert read_pairs(path) == [GOOD]
    write_jsonl(path, [GOOD, pair(rejected=BETTER)])
    with pytest.raises(DataError, match="identical"):
        read_pairs(path)
    with pytest.raises(DataError, match="没有这个文件"):
        read_pairs(tmp_path / "none.jsonl")


def test_lines_of_a_file_are_counted_with_its_blank_ones(tmp_path):
    text = json.dumps(GOOD) + "\n\n  \n" + json.dumps(pair(rejected=" ")) + "\n"
    path = tmp_path / "train.jsonl"
    path.write_text(text, encoding="utf-8")
    (problem,) = problems(path)
    assert problem.line == 4
    path.write_text(text + "{", encoding="utf-8")
    (problem,) = problems(path)
    assert problem.line == 5 and "JSON" in problem.wrong


@pytest.mark.parametrize(
    ("changed", "field", "word"),
    [
        ({"rejected": turn("assistant", BETTER)}, "rejected", "identical"),
        ({"rejected": turn("assistant", BETTER.replace("\n", " \n\u3000"))}, "rejected", "whitespace"),
        ({"chosen": turn("assistant", "")}, "chosen[0].content", "empty"),
        ({"rejected": turn("assistant", " \n")}, "rejected[0].content", "empty"),
        ({"prompt": turn("user", "\u3000")}, "prompt[0].content", "empty"),
        ({"prompt": turn("assistant", "写诗")}, "prompt[0].role", "应为 user"),
        ({"chosen": turn("user", BETTER)}, "chosen[0].role", "应为 assistant"),
        ({"rejected": turn("gpt", WORSE)}, "rejected[0].role", "'gpt'"),
        ({"chosen": [{"content": BETTER}]}, "chosen[0].role", "None"),
        ({"chosen": [{"role": "assistant"}]}, "chosen[0].content", "NoneType"),
        ({"chosen": turn("assistant", ["春"])}, "chosen[0].content", "list"),
        ({"chosen": ["春"]}, "chosen[0]", "str"),
        ({"chosen": BETTER}, "chosen", '写成对话 [{"role": "assistant"'),
        ({"prompt": "写诗"}, "prompt", '写成对话 [{"role": "user"'),
        ({"rejected": ""}, "rejected", "empty"),
        ({"prompt": []}, "prompt", "非空的列表"),
        ({"chosen": None}, "chosen", "NoneType"),
        (
            {"chosen": turn("user", "写诗") + turn("assistant", BETTER)},
            "chosen",
            "前面的对话放进 prompt",
        ),
        ({"prompt": turn("user", "写诗") + turn("system", "你是诗人")}, "prompt[1].role", "wrong role"),
        (
            {"prompt": turn("user", "写诗") + turn("system", "甲") + turn("user", "乙")},
            "prompt[1].role",
            "user 或 assistant",
        ),
    ],
)
def test_a_broken_row_names_line_and_field(changed, field, word):
    (problem,) = problems([GOOD, {**pair("乙"), **changed}])
    assert (problem.line, problem.field) == (2, field)
    assert word in problem.wrong + problem.fix


@pytest.mark.parametrize(
    ("row", "fields", "word"),
    [
        ({"prompt": turn("user", "写诗"), "chosen": turn("assistant", "春")}, ["rejected"], "missing key"),
        ({"messages": [], "rejected_response": "春"}, ["prompt", "chosen", "rejected"], "ms-swift"),
        ({"question": "写诗", "response_j": "春"}, ["prompt", "chosen", "rejected"], "question"),
        ({}, ["prompt", "chosen", "rejected"], "空对象"),
        ([GOOD], [""], "list"),
    ],
)
def test_missing_keys_are_named(row, fields, word):
    found = problems([row])
    assert [problem.field for problem in found] == fields
    assert word in found[0].wrong + found[0].fix


def test_no_pairs_at_all():
    (problem,) = problems([])
    assert problem.line == 0 and "一对数据也没有" in problem.wrong


def test_prompts_of_several_turns_are_good():
    talk = turn("system", "你是诗人") + turn("user", "甲") + turn("assistant", "乙") + turn("user", "丙")
    assert validate_pairs([{**pair(), "prompt": talk}]).rows == 1


def test_duplicates_and_contradictions_name_the_other_line():
    again, swapped = pair("甲 ", BETTER + "\n", WORSE), pair("甲", WORSE, BETTER)
    (duplicate,) = problems([GOOD, pair("乙"), again])
    assert duplicate.line == 3 and "第 1 行重复" in duplicate.wrong
    (contradiction,) = problems([GOOD, swapped])
    assert contradiction.line == 2 and "第 1 行" in contradiction.wrong
    assert "contradiction" in contradiction.wrong
    assert (
        validate_pairs([GOOD, pair("题目是回字", WORSE, BETTER)]).rows == 2
    )  # another prompt may turn it round
    assert validate_pairs([GOOD, pair("甲", BETTER, "别的")]).rows == 2


def test_the_judge_finds_swapped_pairs():
    def judge(row, text):
        return -len(check(text, row["form"]).faults)

    rows = [pair(str(i), form="五言绝句") for i in range(3)]
    assert validate_pairs(rows, judge=judge).ties == 0
    rows[1]["chosen"], rows[1]["rejected"] = rows[1]["rejected"], rows[1]["chosen"]
    (problem,) = problems(rows, judge=judge)
    assert (problem.line, problem.field) == (2, "chosen") and "swapped" in problem.wrong
    assert "0 分，高于 chosen 的 -1 分" in problem.wrong


@pytest.mark.parametrize("score", [None, "5", float("nan")])
def test_a_judge_that_gives_no_number_is_an_error(score):
    with pytest.raises(ValueError, match="judge.*第 1 行"):
        validate_pairs([GOOD], judge=lambda row, text: score)


def test_answers_that_only_differ_before_the_tokenizer_are_found(tokenizer):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    row = pair("乙", composed, decomposed)
    assert validate_pairs([row]).rows == 1
    (problem,) = problems([GOOD, row], tokenizer)
    assert problem.line == 2 and "same tokens" in problem.wrong


def test_problems_come_all_and_in_order():
    rows = [GOOD, pair("丙", "甲", "乙丁"), GOOD, pair("丁", "甲", "乙丁")]
    found = problems(rows, judge=lambda row, text: len(set(text)))
    assert [problem.line for problem in found] == [2, 3, 4]


def test_leaks_are_found_by_column_and_by_prompt(tmp_path):
    train = [pair("甲", theme="秋夜"), pair("乙", theme="春雨"), pair("丙", theme="春雨")]
    test = [pair("丁", theme="江月"), pair(" 甲", theme="春雨")]
    (theme,) = leaks(train, test)
    assert (theme.line, theme.field) == (2, "theme") and "春雨" in theme.wrong and "第 2 行" in theme.wrong
    (prompt,) = leaks(write_jsonl(tmp_path / "train.jsonl", train), test, key="prompt")
    assert (prompt.line, prompt.field) == (2, "prompt") and "第 1 行" in prompt.wrong
    assert leaks(train, test[:1]) == []
    with pytest.raises(ValueError, match="test 第 1 行没有 theme 列"):
        leaks(train, [pair()])


# Into the trainers


def test_trl_takes_the_rows_as_they_are(tokenizer):
    from trl.data_utils import apply_chat_template, is_conversational

    assert is_conversational(GOOD)
    shown = apply_chat_template(copy.deepcopy(GOOD), tokenizer)
    for key in ("chosen", "rejected"):
        ids, _ = encode(tokenizer, GOOD["prompt"] + GOOD[key])
        assert tokenizer(shown["prompt"] + shown[key]).input_ids == ids


def test_to_swift_loses_nothing_and_leaves_the_rows_alone():
    row = pair(fault="rhyme", form="五言绝句", theme="秋夜")
    before = copy.deepcopy(row)
    (made,) = to_swift([row])
    assert made == {
        "messages": [*row["prompt"], *row["chosen"]],
        "rejected_response": WORSE,
        "fault": "rhyme",
        "form": "五言绝句",
        "theme": "秋夜",
    }
    made["messages"][0]["content"] = "改"
    assert row == before


def test_to_swift_refuses_bad_pairs_and_taken_columns():
    with pytest.raises(DataError, match="第 2 行"):
        to_swift([GOOD, pair(rejected=BETTER)])
    with pytest.raises(ValueError, match="第 1 行已有 messages"):
        to_swift([pair(messages=[])])


def test_swift_reads_both_answers_to_the_tokens_that_trl_sees(tmp_path, tokenizer):
    from swift.dataset import load_dataset
    from swift.model import get_model_processor
    from swift.template import get_template

    path = write_jsonl(tmp_path / "dpo.jsonl", to_swift([pair(fault="rhyme", form="五言绝句", theme="秋夜")]))
    data, _ = load_dataset(str(path), load_from_cache_file=False)
    _, processor = get_model_processor(tokenizer.name_or_path, model_type="qwen3", load_model=False)
    template = get_template(processor, template_type="chatml", max_length=256)
    template.set_mode("rlhf")
    encoded = template.encode(dict(data[0]))
    for key, text in (("chosen", BETTER), ("rejected", WORSE)):
        ids, labels = encode(tokenizer, pair()["prompt"] + turn("assistant", text))
        assert (encoded[f"{key}_input_ids"], encoded[f"{key}_labels"]) == (ids, labels)


def test_in_batches_keeps_every_row_and_mixes_no_batch():
    rows = [pair(form="ab"[number % 3 == 0], number=number) for number in range(50)]
    made = in_batches(rows, 8, "form", seed=1)
    assert sorted(row["number"] for row in made) == list(range(50))
    full = [made[start : start + 8] for start in range(0, 48, 8)]
    assert [len({row["form"] for row in batch}) for batch in full] == [1] * 6
    assert {row["form"] for batch in full for row in batch} == {"a", "b"}
    assert made == in_batches(rows, 8, "form", seed=1) != in_batches(rows, 8, "form", seed=2)
