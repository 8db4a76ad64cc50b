"""Checks of verifiable rewards: right answers, format, one number for each completion."""

import math
import re
from random import Random

import torch

from lab_utils import rewards
from lab_utils.checks.frame import Case, Check, Mistake

__all__ = [
    "AS_REWARDS",
    "CORRECTNESS_REWARD",
    "FORMAT_REWARD",
    "as_rewards",
    "correctness_reward",
    "format_reward",
]


def correctness_reward(completions: list[str], answers: list[str]) -> list[float]:
    """2.0 for each completion whose last `<answer>` holds the answer and nothing else, else 0.0."""
    return rewards.correct_answer(completions, answer=answers)


def format_reward(completions: list[str]) -> list[float]:
    """0.5 for each completion that is the format from first to last character, else 0.0."""
    return rewards.strict_xml(completions)


def as_rewards(scores: list) -> list[float]:
    """One float per score: True is 1.0; None, NaN and inf, which say nothing, are 0.0."""
    return [0.0 if score is None or not math.isfinite(score) else float(score) for score in scores]


_SEVEN = "<reasoning>3 + 4 = 7</reasoning>\n<answer>7</answer>"
_TEXTS = (
    _SEVEN,
    _SEVEN.replace(">7<", ">8<"),
    _SEVEN.replace(">7<", ">17<"),
    "<answer>\n7\n</answer>",
    "3 + 4 = 7",
    "<answer>七</answer>",
    "<answer>6</answer>不对，应是 <answer>7</answer>",
    "<answer>7</answer>不对，应是 <answer>8</answer>",
)


def _blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)]


def _last(text: str) -> str:
    return (_blocks(text) or [""])[-1]


def _score(judge, right=2.0, wrong=0.0):
    """A reward function that gives `right` where `judge(text, answer)` and `wrong` elsewhere."""
    return lambda texts, answers: [
        right if judge(t, a) else wrong for t, a in zip(texts, answers, strict=True)
    ]


def _draw_answers(rng: Random) -> tuple:
    """Completions with none, one or two answers, and the right answers."""
    texts, answers = [], []
    for _ in range(rng.randint(4, 8)):
        first, last = rng.randint(1, 60), rng.randint(1, 60)
        blocks = [f"<answer>{first}</answer>"] * (rng.random() < 0.4)
        blocks += [f"<answer>{rng.choice(('', ' ', chr(10)))}{last}</answer>"] * (rng.random() < 0.8)
        texts.append(f"{first} + {last}\n" + "再想想。".join(blocks))
        answers.append(str(rng.choice((first, last, last, last * 10))))
    return texts, answers


CORRECTNESS_REWARD = Check(
    "correctness_reward",
    correctness_reward,
    draw=_draw_answers,
    cases=(
        Case(
            "答案 7，各种写法",
            (list(_TEXTS), ["7"] * len(_TEXTS)),
            "取出最后一个 <answer>…</answer> 里的内容，去掉首尾空白，与标准答案相等得 2.0，否则 0.0",
        ),
        Case(
            "每条的答案不同",
            ([_SEVEN, "<answer> -12 </answer>", "<answer>\n3\n</answer>"], ["7", "-12", "4"]),
            "第 i 条回答对第 i 个答案",
        ),
        Case("空回答", (["", "<answer></answer>"], ["7", "7"]), "没有答案得 0.0，不要返回 None，也不要出错"),
        Case("标准答案两边有空格", ([_SEVEN, _SEVEN], [" 7", "7\n"]), "两边都去掉空白再比较", edge=True),
    ),
    mistakes=(
        Mistake(
            "包含就算",
            _score(lambda t, a: a.strip() in t),
            "回答里出现过 7 不等于答案是 7（17 里也有 7）：先取出 <answer> 里的内容，再比较是否相等",
        ),
        Mistake(
            "答案里包含就算",
            _score(lambda t, a: a.strip() in _last(t)),
            "17 里也有 7：要相等 (==)，不是包含 (in)",
        ),
        Mistake(
            "没有得分时返回 None",
            _score(lambda t, a: _last(t) == a.strip(), wrong=None),
            "每条都要有一个数：没得分返回 0.0。TRL 会不声不响地略过 None",
        ),
        Mistake(
            "得 1 分",
            _score(lambda t, a: _last(t) == a.strip(), right=1.0),
            "答对得 2.0：它要比所有格式分加起来更重",
        ),
        Mistake(
            "返回真假",
            _score(lambda t, a: _last(t) == a.strip(), True, False),
            "要的是分数 2.0 或 0.0，不是 True 或 False",
        ),
        Mistake(
            "没有去空白",
            _score(lambda t, a: re.findall(r"<answer>(.*?)</answer>", t, re.DOTALL)[-1:] == [a]),
            "<answer> 里常有换行和空格，用 .strip() 去掉再比较",
        ),
        Mistake("标准答案没去空白", _score(lambda t, a: _last(t) == a), "标准答案的两边也可能有空白"),
        Mistake(
            "取第一个",
            _score(lambda t, a: _blocks(t)[:1] == [a.strip()]),
            "模型会改口：算数的是最后一个 <answer>",
        ),
        Mistake(
            "任一个对就算",
            _score(lambda t, a: a.strip() in _blocks(t)),
            "写几个答案来碰运气也得了分：只看最后一个 <answer>",
        ),
        Mistake(
            "只准一个，或 .* 太贪",
            _score(lambda t, a: _blocks(t) == [a.strip()]),
            "写了几个 <answer> 时看最后一个，不是都不算；正则里的 .* 会从第一个一直吃到最后一个，用 .*?",
        ),
        Mistake(
            "取第一个数",
            _score(lambda t, a: ([*re.findall(r"-?\d+", t), ""])[0] == a.strip()),
            "文中第一个数往往是题目里的，答案在 <answer> 里",
        ),
        Mistake(
            "没有标签就出错",
            _score(lambda t, a: _blocks(t)[-1] == a.strip()),
            "没有 <answer> 时列表是空的，先判断再取",
        ),
        Mistake(
            "转成整数",
            _score(lambda t, a: bool(_blocks(t)) and int(_last(t)) == int(a)),
            "答案不一定是数，int() 会出错：比较字符串",
        ),
        Mistake("只返回总分", lambda t, a: sum(correctness_reward(t, a)), "每条回答一个分数，返回列表"),
    ),
)


_PATTERN = r"<reasoning>(.+?)</reasoning>\n<answer>(.+?)</answer>"
_LONG = "<reasoning>\n先算 3 + 4。\n得 7。\n</reasoning>\n<answer>\n7\n</answer>"
_SWAPPED = "<answer>7</answer>\n<reasoning>3 + 4 = 7</reasoning>"
_EMPTY = "<reasoning></reasoning>\n<answer>7</answer>"
_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def _format(judge, right=0.5, wrong=0.0):
    """A reward function that gives `right` where `judge(text)` and `wrong` elsewhere."""
    return lambda texts: [right if judge(text) else wrong for text in texts]


def _once(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in _TAGS)


def _draw_formats(rng: Random) -> tuple:
    """Completions that keep the format, and that break it in one place."""
    texts = []
    for _ in range(rng.randint(4, 8)):
        a, b, answer = rng.choices(range(1, 100), k=3)
        text = f"<reasoning>{a} + {b}</reasoning>\n<answer>{answer}</answer>"
        bad = (
            text + "。",
            "答：" + text,
            text.replace("\n", " "),
            text.replace("</reasoning>", ""),
            text[8:],
        )
        texts.append(text if rng.random() < 0.5 else rng.choice(bad))
    return (texts,)


FORMAT_REWARD = Check(
    "format_reward",
    format_reward,
    draw=_draw_formats,
    cases=(
        Case(
            "合格的",
            ([_SEVEN, _LONG],),
            "<reasoning>…</reasoning>，换行，<answer>…</answer>；里面可以有几行（re.DOTALL）",
        ),
        Case(
            "前后有多余的话",
            (["好的。" + _SEVEN, _SEVEN + "希望有帮助！"],),
            "从第一个字到最后一个字都要合格：re.fullmatch",
        ),
        Case(
            "缺标签、次序颠倒、写在一行、推理是空的",
            (["7", _SEVEN.replace("</answer>", ""), _SWAPPED, _SEVEN.replace("\n", ""), _EMPTY],),
            "先推理后答案，中间正好一个换行，两部分都不能空",
        ),
        Case("空回答", ([""],), "空的得 0.0"),
        Case(
            "写两遍", ([_SEVEN + "\n" + _SEVEN],), "每个标签只能出现一次，.+? 也会跨过中间的标签", edge=True
        ),
    ),
    mistakes=(
        Mistake(
            "search",
            _format(lambda t: re.search(_PATTERN, t, re.DOTALL)),
            "re.search 在中间找到就算，前后有多余的话也得了分：用 re.fullmatch",
        ),
        Mistake(
            "match",
            _format(lambda t: re.match(_PATTERN, t, re.DOTALL)),
            "re.match 只管开头，后面多余的话没有管：用 re.fullmatch",
        ),
        Mistake(
            "没有 DOTALL",
            _format(lambda t: re.fullmatch(_PATTERN, t)),
            "推理有几行时就不合格了：让 . 也匹配换行 (re.DOTALL)",
        ),
        Mistake(
            "只找标签",
            _format(lambda t: all(tag in t for tag in _TAGS)),
            "四个标签都出现还不够：次序、换行和多余的话都要管",
        ),
        Mistake("标签各一次就算", _format(_once), "四个标签各出现一次还不够：次序、换行和多余的话都要管"),
        Mistake(
            "写两遍也算",
            _format(lambda t: re.fullmatch(_PATTERN, t, re.DOTALL)),
            ".+? 能跨过中间的标签，写两遍也能匹配：再要求每个标签只出现一次",
        ),
        Mistake(
            "空的也算",
            _format(lambda t: _once(t) and re.fullmatch(_PATTERN.replace("+", "*"), t, re.DOTALL)),
            ".*? 连空的也匹配：推理和答案都至少要有一个字，用 .+?",
        ),
        Mistake(
            "换行可有可无",
            _format(lambda t: _once(t) and re.fullmatch(_PATTERN.replace(r"\n", r"\s*"), t, re.DOTALL)),
            "严格的格式里两部分之间正好一个换行：\\s* 把没有换行的也放过了",
        ),
        Mistake("得 1 分", _format(lambda t: format_reward([t])[0], right=1.0), "格式分是 0.5：比答对轻"),
        Mistake(
            "返回真假",
            _format(lambda t: format_reward([t])[0], True, False),
            "要的是分数 0.5 或 0.0，不是 True 或 False",
        ),
        Mistake(
            "不合格返回 None",
            _format(lambda t: format_reward([t])[0], wrong=None),
            "不合格返回 0.0，不是 None",
        ),
    ),
)


def _draw_scores(rng: Random) -> tuple:
    odd = (None, math.nan, math.inf, -math.inf, True, False)
    scores = [rng.choice(odd) if rng.random() < 0.5 else rng.uniform(-3, 3) for _ in range(rng.randint(3, 8))]
    scores.insert(rng.randrange(len(scores) + 1), rng.uniform(-3, 3))
    return (scores,)


AS_REWARDS = Check(
    "as_rewards",
    as_rewards,
    draw=_draw_scores,
    cases=(
        Case("有 None", ([2.0, None, 0.5],), "一条也不能少：None 的位置放 0.0"),
        Case(
            "有 NaN",
            ([math.nan, 1.0, math.inf],),
            "用 math.isfinite 判断；NaN 与任何数比较都不相等，包括它自己",
        ),
        Case("有真假和整数", ([True, False, 2, 0],), "float(True) 是 1.0"),
        Case("全是 None", ([None, None],), "都没有得分就都是 0.0", edge=True),
        Case("没有回答", ([],), "空列表返回空列表", edge=True),
    ),
    mistakes=(
        Mistake(
            "丢掉 None",
            lambda s: [float(x) for x in s if x is not None and math.isfinite(x)],
            "丢掉之后长度变了，后面的分数就对错了人：一条回答一个数",
        ),
        Mistake(
            "None 留着",
            lambda s: [x if x is None else float(x) for x in s],
            "None 还在：TRL 把它变成 NaN，不声不响地略过，你以为打了分的回答其实没有",
        ),
        Mistake(
            "NaN 留着",
            lambda s: [0.0 if x is None else float(x) for x in s],
            "NaN 和 inf 还在：求组内平均时，一个就足以让整组的优势都变成 NaN",
        ),
        Mistake(
            "x or 0.0",
            lambda s: [x or 0.0 for x in s],
            "NaN 是“真”的，True 也还是 True：逐个判断，再用 float()",
        ),
        Mistake(
            "None 时出错",
            lambda s: [float(x) if math.isfinite(x) else 0.0 for x in s],
            "None 不能算，先判断 is None",
        ),
        Mistake(
            "真假留着",
            lambda s: [0.0 if x is None or not math.isfinite(x) else x for x in s],
            "还有 True 和 False，用 float() 变成数",
        ),
        Mistake("返回平均", lambda s: sum(as_rewards(s)) / max(1, len(s)), "每条回答一个数，不要求平均"),
        Mistake("返回张量", lambda s: torch.tensor(as_rewards(s)), "TRL 要的是 Python 的列表"),
    ),
)
