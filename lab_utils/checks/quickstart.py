"""Checks of lab 00: measure a text before judging a model."""

from random import Random

from lab_utils.checks.frame import Case, Check, Mistake

# Verse-like lines of our own making, each with a shape worth testing.
_QUATRAIN = "山月照寒溪，松风过石堤。\n客来无一语，同听夜鸦啼。"
_SEVENS = "小楼昨夜又听风，灯火人家细雨中。\n一卷旧书看未了，不知窗外已天红。"


def line_lengths(text: str) -> list[int]:
    """Characters in each verse line of `text`; lines end at ，。or a line break, empty ones don't count."""
    for mark in "，。":
        text = text.replace(mark, "\n")
    return [len(line.strip()) for line in text.split("\n") if line.strip()]


def is_quatrain(lengths: list[int]) -> bool:
    """True for four lines of five characters (五言绝句)."""
    return lengths == [5, 5, 5, 5]


def pass_rate(passed: list[bool]) -> float:
    """Share of True in `passed`; 0.0 for no results."""
    return sum(passed) / len(passed) if passed else 0.0


def weight_gib(parameters: int, bits: float) -> float:
    """Memory of the weights alone in GiB (2**30 bytes)."""
    return parameters * bits / 8 / 2**30


def _draw_text(rng: Random) -> tuple:
    """Verse-like lines with every kind of end."""
    lines = [
        "".join(rng.choices("山水云月风花雪夜春秋江松", k=rng.randint(2, 9)))
        for _ in range(rng.randint(3, 8))
    ]
    return ("".join(line + rng.choice(("，", "。", "，\n", "。\n", "\n", "。\n\n")) for line in lines),)


LINE_LENGTHS = Check(
    "line_lengths",
    line_lengths,
    draw=_draw_text,
    cases=(
        Case("五言四句", (_QUATRAIN,), "句子以逗号、句号和换行结束"),
        Case("七言四句", (_SEVENS,), "每句的长度要分别数"),
        Case("没有换行", (_QUATRAIN.replace("\n", ""),), "换行不一定有，标点才是句子的边界"),
        Case("首尾有空行", ("\n" + _QUATRAIN + "\n\n",), "空的句子不算"),
        Case("空字符串", ("",), "没有句子时返回空列表", edge=True),
    ),
    mistakes=(
        Mistake(
            "空句也算",
            lambda t: [len(x) for x in t.replace("，", "\n").replace("。", "\n").split("\n")],
            "标点和换行连在一起时会切出空的句子，要跳过它们",
        ),
        Mistake("只按换行切", lambda t: [len(x) for x in t.split("\n") if x], "一行里有两句，中间是逗号"),
        Mistake(
            "只按标点切",
            lambda t: [len(x) for x in t.replace("。", "，").split("，") if x],
            "换行符也被数成了一个字",
        ),
        Mistake("返回句数", lambda t: len(line_lengths(t)), "要的是每句的字数（一个列表），不是句子的个数"),
        Mistake(
            "返回句子",
            lambda t: [x for x in t.replace("，", "\n").replace("。", "\n").split("\n") if x],
            "切得对，还差一步：返回每句的长度 len(...)",
        ),
        Mistake("标点也数", lambda t: [n + 1 for n in line_lengths(t)], "句末的标点不算字数"),
    ),
)


def _draw_near_quatrain(rng: Random) -> tuple:
    """Lengths that are no quatrain: the only input that is one, [5, 5, 5, 5], is visible.

    So a constant False passes all of these; what tells it from a right answer is the visible quatrain.
    """
    kind = rng.choice(("one line off", "some lines off", "goes on", "another poem"))
    if kind == "one line off":
        lengths = [5] * 4
        lengths[rng.randrange(4)] = rng.randint(6, 10**6)
        return (lengths,)
    if kind == "some lines off":
        return ([5, *rng.choices(range(6, 1000), k=3)],)
    if kind == "goes on":
        return ([5] * 4 + rng.choices(range(3, 10), k=rng.randint(8, 12)),)
    return (rng.choices(range(3, 10), k=rng.randint(8, 16)),)


IS_QUATRAIN = Check(
    "is_quatrain",
    is_quatrain,
    draw=_draw_near_quatrain,
    cases=(
        Case("五言绝句", ([5, 5, 5, 5],), "四句，每句五字"),
        Case("七言绝句", ([7, 7, 7, 7],), "句数对，字数不是五"),
        Case("五言律诗", ([5] * 8,), "字数对，句数是八"),
        Case("有一句六字", ([5, 5, 6, 5],), "要求每一句都是五字"),
        Case("末句不全", ([5, 5, 5, 3],), "要求每一句都是五字，最后一句也要看"),
        Case("平均是五", ([4, 6, 5, 5],), "字数要逐句看，平均数会骗人"),
        Case("没有句子", ([],), "空列表不是一首诗", edge=True),
    ),
    mistakes=(
        Mistake("只看句数", lambda n: len(n) == 4, "句数对了还不够，每句的字数也要看"),
        Mistake(
            "只看字数", lambda n: all(x == 5 for x in n), "每句五字的诗不一定是四句；空列表也会让 all() 为真"
        ),
        Mistake("看平均", lambda n: len(n) == 4 and sum(n) / 4 == 5, "四句加起来二十字不等于每句五字"),
        Mistake("只看第一句", lambda n: len(n) == 4 and n[0] == 5, "每一句都要看，不只是第一句"),
        Mistake("五或七", lambda n: len(n) == 4 and (set(n) == {5} or set(n) == {7}), "这里只问五言绝句"),
        Mistake("返回列表", lambda n: [x == 5 for x in n], "要的是一个 True 或 False，可以用 all(...)"),
    ),
)


def _draw_outcomes(rng: Random) -> tuple:
    share = rng.uniform(0.3, 0.7)
    return ([rng.random() < share for _ in range(rng.randint(30, 80))],)


PASS_RATE = Check(
    "pass_rate",
    pass_rate,
    draw=_draw_outcomes,
    cases=(
        Case("三中二", ([True, True, False],), "通过的个数除以总数"),
        Case("全不通过", ([False] * 4,), "应为 0.0"),
        Case("全通过", ([True] * 5,), "应为 1.0"),
        Case("没有结果", ([],), "没有结果时返回 0.0，不要除以零", edge=True),
    ),
    mistakes=(
        Mistake("除以零", lambda p: sum(p) / len(p), "没有结果时 len 为 0，先判断"),
        Mistake("返回个数", lambda p: sum(p), "还要除以总数"),
        Mistake("失败率", lambda p: 1 - pass_rate(p) if p else 0.0, "这是没有通过的比例"),
        Mistake("百分数", lambda p: 100 * pass_rate(p), "返回 0 到 1 之间的小数，不乘 100"),
        Mistake("整除", lambda p: sum(p) // len(p) if p else 0.0, "// 会丢掉小数部分，用 /"),
    ),
)


def _draw_model_size(rng: Random) -> tuple:
    return rng.randint(10**7, 10**11), rng.choice((2, 3, 4, 4.127, 4.5, 8, 16, 32))


WEIGHT_GIB = Check(
    "weight_gib",
    weight_gib,
    draw=_draw_model_size,
    cases=(
        Case("7,615,616,512 个参数，16 位", (7_615_616_512, 16), "参数个数 × 每个参数的字节数"),
        Case("同一个模型，4 位", (7_615_616_512, 4), "4 位是半个字节"),
        Case("0.6 B，32 位", (596_049_920, 32), "1 字节 (byte) 是 8 位 (bit)"),
        Case("一个参数", (1, 8), "结果可以很小，不要取整", edge=True),
    ),
    mistakes=(
        Mistake("位当字节", lambda n, b: n * b / 2**30, "bits 是位 (bit)，先除以 8 得到字节 (byte)"),
        Mistake("GB", lambda n, b: n * b / 8 / 1e9, "GiB 是 2**30 字节；除以 10**9 得到的是 GB"),
        Mistake("MiB", lambda n, b: n * b / 8 / 2**20, "除以 2**20 得到的是 MiB"),
        Mistake("取整", lambda n, b: round(n * b / 8 / 2**30, 1), "不要四舍五入，显示时再取整"),
        Mistake("位整除", lambda n, b: n * (b // 8) / 2**30, "b // 8 在 4 位时是 0"),
    ),
)
