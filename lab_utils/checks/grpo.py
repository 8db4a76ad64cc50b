"""Checks of lab 09: verifiable rewards, group-relative advantages and GRPO's loss."""

import math
import re
from random import Random

import torch

from lab_utils import align, rewards
from lab_utils.checks.frame import Case, Check, Mistake


def correctness_reward(completions: list[str], answers: list[str]) -> list[float]:
    """2.0 for each completion whose last `<answer>` holds the answer and nothing else, else 0.0."""
    return rewards.correct_answer(completions, answer=answers)


def format_reward(completions: list[str]) -> list[float]:
    """0.5 for each completion that is the format from first to last character, else 0.0."""
    return rewards.strict_xml(completions)


def as_rewards(scores: list) -> list[float]:
    """One float per score: True is 1.0; None, NaN and inf, which say nothing, are 0.0."""
    return [0.0 if score is None or not math.isfinite(score) else float(score) for score in scores]


def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """(reward - group mean) / (group std + 1e-4); (batch,) to (batch,)."""
    return align.grpo_advantages(rewards, group_size)


def frac_reward_zero_std(rewards: torch.Tensor, group_size: int) -> float:
    """Share of groups whose rewards are all equal."""
    return align.frac_reward_zero_std(rewards, group_size)


def grpo_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """GRPO's clipped loss of each completion, averaged over its own tokens; (batch, time) to (batch,).

    advantages: (batch,). A completion without a token gives 0.
    """
    objective = align.clipped_objective(torch.exp(logps - old_logps), advantages.unsqueeze(1), epsilon)
    return -(objective * mask).sum(1) / mask.sum(1).clamp(min=1)


def prompts_per_step(per_device_batch: int, devices: int, accumulation: int, num_generations: int) -> int:
    """Different prompts in one optimizer step; 0 when the step's completions aren't whole groups of >= 2."""
    completions = per_device_batch * devices * accumulation
    return 0 if num_generations < 2 or completions % num_generations else completions // num_generations


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
        Case("答案 7，各种写法", (list(_TEXTS), ["7"] * len(_TEXTS)), "取出最后一个 <answer>…</answer> 里的内容，去掉首尾空白，与标准答案相等得 2.0，否则 0.0"),
        Case("每条的答案不同", ([_SEVEN, "<answer> -12 </answer>", "<answer>\n3\n</answer>"], ["7", "-12", "4"]), "第 i 条回答对第 i 个答案"),
        Case("空回答", (["", "<answer></answer>"], ["7", "7"]), "没有答案得 0.0，不要返回 None，也不要出错"),
        Case("标准答案两边有空格", ([_SEVEN, _SEVEN], [" 7", "7\n"]), "两边都去掉空白再比较", edge=True),
    ),
    mistakes=(
        Mistake("包含就算", _score(lambda t, a: a.strip() in t), "回答里出现过 7 不等于答案是 7（17 里也有 7）：先取出 <answer> 里的内容，再比较是否相等"),
        Mistake("答案里包含就算", _score(lambda t, a: a.strip() in _last(t)), "17 里也有 7：要相等 (==)，不是包含 (in)"),
        Mistake("没有得分时返回 None", _score(lambda t, a: _last(t) == a.strip(), wrong=None), "每条都要有一个数：没得分返回 0.0。TRL 会不声不响地略过 None"),
        Mistake("得 1 分", _score(lambda t, a: _last(t) == a.strip(), right=1.0), "答对得 2.0：它要比所有格式分加起来更重"),
        Mistake("返回真假", _score(lambda t, a: _last(t) == a.strip(), True, False), "要的是分数 2.0 或 0.0，不是 True 或 False"),
        Mistake("没有去空白", _score(lambda t, a: re.findall(r"<answer>(.*?)</answer>", t, re.DOTALL)[-1:] == [a]), "<answer> 里常有换行和空格，用 .strip() 去掉再比较"),
        Mistake("标准答案没去空白", _score(lambda t, a: _last(t) == a), "标准答案的两边也可能有空白"),
        Mistake("取第一个", _score(lambda t, a: _blocks(t)[:1] == [a.strip()]), "模型会改口：算数的是最后一个 <answer>"),
        Mistake("任一个对就算", _score(lambda t, a: a.strip() in _blocks(t)), "写几个答案来碰运气也得了分：只看最后一个 <answer>"),
        Mistake("只准一个，或 .* 太贪", _score(lambda t, a: _blocks(t) == [a.strip()]), "写了几个 <answer> 时看最后一个，不是都不算；正则里的 .* 会从第一个一直吃到最后一个，用 .*?"),
        Mistake("取第一个数", _score(lambda t, a: ([*re.findall(r"-?\d+", t), ""])[0] == a.strip()), "文中第一个数往往是题目里的，答案在 <answer> 里"),
        Mistake("没有标签就出错", _score(lambda t, a: _blocks(t)[-1] == a.strip()), "没有 <answer> 时列表是空的，先判断再取"),
        Mistake("转成整数", _score(lambda t, a: bool(_blocks(t)) and int(_last(t)) == int(a)), "答案不一定是数，int() 会出错：比较字符串"),
        Mistake("只返回总分", lambda t, a: sum(correctness_reward(t, a)), "每条回答一个分数，返回列表"),
    ),
)  # fmt: skip

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
        Case("合格的", ([_SEVEN, _LONG],), "<reasoning>…</reasoning>，换行，<answer>…</answer>；里面可以有几行（re.DOTALL）"),
        Case("前后有多余的话", (["好的。" + _SEVEN, _SEVEN + "希望有帮助！"],), "从第一个字到最后一个字都要合格：re.fullmatch"),
        Case("缺标签、次序颠倒、写在一行、推理是空的", (["7", _SEVEN.replace("</answer>", ""), _SWAPPED, _SEVEN.replace("\n", ""), _EMPTY],), "先推理后答案，中间正好一个换行，两部分都不能空"),
        Case("空回答", ([""],), "空的得 0.0"),
        Case("写两遍", ([_SEVEN + "\n" + _SEVEN],), "每个标签只能出现一次，.+? 也会跨过中间的标签", edge=True),
    ),
    mistakes=(
        Mistake("search", _format(lambda t: re.search(_PATTERN, t, re.DOTALL)), "re.search 在中间找到就算，前后有多余的话也得了分：用 re.fullmatch"),
        Mistake("match", _format(lambda t: re.match(_PATTERN, t, re.DOTALL)), "re.match 只管开头，后面多余的话没有管：用 re.fullmatch"),
        Mistake("没有 DOTALL", _format(lambda t: re.fullmatch(_PATTERN, t)), "推理有几行时就不合格了：让 . 也匹配换行 (re.DOTALL)"),
        Mistake("只找标签", _format(lambda t: all(tag in t for tag in _TAGS)), "四个标签都出现还不够：次序、换行和多余的话都要管"),
        Mistake("标签各一次就算", _format(_once), "四个标签各出现一次还不够：次序、换行和多余的话都要管"),
        Mistake("写两遍也算", _format(lambda t: re.fullmatch(_PATTERN, t, re.DOTALL)), ".+? 能跨过中间的标签，写两遍也能匹配：再要求每个标签只出现一次"),
        Mistake("空的也算", _format(lambda t: _once(t) and re.fullmatch(_PATTERN.replace("+", "*"), t, re.DOTALL)), ".*? 连空的也匹配：推理和答案都至少要有一个字，用 .+?"),
        Mistake("换行可有可无", _format(lambda t: _once(t) and re.fullmatch(_PATTERN.replace(r"\n", r"\s*"), t, re.DOTALL)), "严格的格式里两部分之间正好一个换行：\\s* 把没有换行的也放过了"),
        Mistake("得 1 分", _format(lambda t: format_reward([t])[0], right=1.0), "格式分是 0.5：比答对轻"),
        Mistake("返回真假", _format(lambda t: format_reward([t])[0], True, False), "要的是分数 0.5 或 0.0，不是 True 或 False"),
        Mistake("不合格返回 None", _format(lambda t: format_reward([t])[0], wrong=None), "不合格返回 0.0，不是 None"),
    ),
)  # fmt: skip


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
        Case("有 NaN", ([math.nan, 1.0, math.inf],), "用 math.isfinite 判断；NaN 与任何数比较都不相等，包括它自己"),
        Case("有真假和整数", ([True, False, 2, 0],), "float(True) 是 1.0"),
        Case("全是 None", ([None, None],), "都没有得分就都是 0.0", edge=True),
        Case("没有回答", ([],), "空列表返回空列表", edge=True),
    ),
    mistakes=(
        Mistake("丢掉 None", lambda s: [float(x) for x in s if x is not None and math.isfinite(x)], "丢掉之后长度变了，后面的分数就对错了人：一条回答一个数"),
        Mistake("None 留着", lambda s: [x if x is None else float(x) for x in s], "None 还在：TRL 把它变成 NaN，不声不响地略过，你以为打了分的回答其实没有"),
        Mistake("NaN 留着", lambda s: [0.0 if x is None else float(x) for x in s], "NaN 和 inf 还在：求组内平均时，一个就足以让整组的优势都变成 NaN"),
        Mistake("x or 0.0", lambda s: [x or 0.0 for x in s], "NaN 是“真”的，True 也还是 True：逐个判断，再用 float()"),
        Mistake("None 时出错", lambda s: [float(x) if math.isfinite(x) else 0.0 for x in s], "None 不能算，先判断 is None"),
        Mistake("真假留着", lambda s: [0.0 if x is None or not math.isfinite(x) else x for x in s], "还有 True 和 False，用 float() 变成数"),
        Mistake("返回平均", lambda s: sum(as_rewards(s)) / max(1, len(s)), "每条回答一个数，不要求平均"),
        Mistake("返回张量", lambda s: torch.tensor(as_rewards(s)), "TRL 要的是 Python 的列表"),
    ),
)  # fmt: skip

_REWARDS = torch.tensor([2.5, 0.5, 0.0, 3.0, 0.5, 0.5, 2.0, 0.0])
_SOME_EQUAL = torch.tensor([1.0, 1.0, 1.0, 0.0, 2.0, 0.5])


def _grouped(change):
    """An answer that applies `change(groups, rewards)` to the rewards in rows and flattens the result."""
    return lambda rewards, size: change(rewards.view(-1, size), rewards).flatten()


def _by_stride(rewards, size):
    groups = rewards.view(size, -1)
    return ((groups - groups.mean(0)) / (groups.std(0) + 1e-4)).flatten()


def _draw_groups(rng: Random) -> tuple:
    """Rewards in eighths, whose means are exact, so that equal ones have a standard deviation of 0; some groups are equal."""
    groups, size = rng.randint(2, 5), rng.randint(3, 6)
    rewards: list[float] = []
    for _ in range(groups):
        group = [rng.randint(-16, 24) / 8 for _ in range(size)]
        rewards += group[:1] * size if rng.random() < 0.3 else group
    return torch.tensor(rewards), size


GROUP_ADVANTAGES = Check(
    "group_advantages",
    group_advantages,
    draw=_draw_groups,
    cases=(
        Case("两组，每组 4 条", (_REWARDS, 4), "同一个提示词的回答挨在一起：rewards.view(-1, group_size)，按行求平均和标准差"),
        Case("四组，每组 2 条", (_REWARDS, 2), "标准差用 torch 默认的（除以 n-1），再加 1e-4"),
        Case("有一组全相等", (_SOME_EQUAL, 3), "标准差为 0 时，除之前先加 1e-4，优势 (advantage) 就是 0，不是 NaN"),
        Case("只有一组", (torch.tensor([0.0, 1.0, 5.0]), 3), "返回的形状与 rewards 相同", edge=True),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("整批的标准差", _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (r.std() + 1e-4)), "标准差要在每组之内求，不是整批"),
        Mistake("整批的平均", lambda r, n: (r - r.mean()) / (r.std() + 1e-4), "平均和标准差都要在每组之内求：难题的组整体得分低，不该都受罚"),
        Mistake("除以零", _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / g.std(1, keepdim=True)), "全组相等时标准差是 0，0/0 是 NaN：除以 (标准差 + 1e-4)"),
        Mistake("别的 ε", _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True) + 1e-8)), "避免了除以零，但 TRL 加的是 1e-4，结果要与它相等"),
        Mistake("有偏的标准差", _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True, unbiased=False) + 1e-4)), "TRL 用 torch 默认的标准差（除以 n-1），你的除以了 n"),
        Mistake("没有除", _grouped(lambda g, r: g - g.mean(1, keepdim=True)), "还要除以每组的标准差（不除的做法是 Dr. GRPO）"),
        Mistake("除以方差", _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (g.var(1, keepdim=True) + 1e-4)), "除以标准差 (std)，不是方差 (var)"),
        Mistake("没有减平均", _grouped(lambda g, r: g / (g.std(1, keepdim=True) + 1e-4)), "先减去组的平均：比组内平均好的才是正的"),
        Mistake("符号反了", lambda r, n: -align.grpo_advantages(r, n), "比平均高的优势应为正"),
        Mistake("组分错了", _by_stride, "每组是挨着的 group_size 条：view(-1, group_size)，不是 view(group_size, -1)"),
        Mistake("没有展平", lambda r, n: align.grpo_advantages(r, n).view(-1, n), "结果要和 rewards 一样是一维的，用 .flatten()"),
    ),
)  # fmt: skip

FRAC_REWARD_ZERO_STD = Check(
    "frac_reward_zero_std",
    frac_reward_zero_std,
    draw=_draw_groups,
    cases=(
        Case("四组里两组相等", (torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.5]), 2), "全组相等就学不到东西，不管是全对还是全错"),
        Case("两组，都不相等", (torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]), 3), "应为 0.0"),
        Case("两组，各自相等", (torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), 3), "应为 1.0：整批有高有低，组内却没有"),
        Case("正负相抵", (torch.tensor([-1.0, 1.0, 0.5, 0.5]), 2), "平均为 0 不等于标准差为 0", edge=True),
    ),
    mistakes=(
        Mistake("看整批", lambda r, n: float(r.std() == 0), "要看每组之内的标准差，不是整批"),
        Mistake("只算全错", lambda r, n: (r.view(-1, n) == 0).all(1).float().mean().item(), "全对的组也一样没有信号：看是否相等，不是看是否为 0"),
        Mistake("看平均", lambda r, n: (r.view(-1, n).mean(1) == 0).float().mean().item(), "看标准差是否为 0，不是平均"),
        Mistake("返回个数", lambda r, n: (r.view(-1, n).std(1) == 0).sum().item(), "要比例：再除以组数"),
        Mistake("反了", lambda r, n: 1 - align.frac_reward_zero_std(r, n), "这是还有信号的组的比例"),
        Mistake("组分错了", lambda r, n: (r.view(n, -1).std(0) == 0).float().mean().item(), "每组是挨着的 group_size 条：view(-1, group_size)"),
        Mistake("逐条看", lambda r, n: (r == 0).float().mean().item(), "按组看，不是数奖励为 0 的回答"),
    ),
)  # fmt: skip


def _batch(seed: int, lengths: list[int], width: int, epsilon: float = 0.2) -> tuple:
    """Arguments of `grpo_loss`: completions of the given lengths padded to `width`."""
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(len(lengths), width, generator=generator) * 3
    logps = old + 0.5 * torch.randn(len(lengths), width, generator=generator)
    advantages = torch.randn(len(lengths), generator=generator)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).float()
    return logps, old, advantages, mask, epsilon


def _losses(logps, old, advantages, epsilon):
    """GRPO's loss of each token; advantages broadcast as they are."""
    return -align.clipped_objective(torch.exp(logps - old), advantages, epsilon)


def _row_mean(losses, mask):
    return (losses * mask).sum(1) / mask.sum(1).clamp(min=1)


def _sequence_ratio(logps, old, advantages, mask, epsilon):
    log_ratio = ((logps - old) * mask).sum(1)
    return -align.clipped_objective(torch.exp(log_ratio), advantages, epsilon) * (mask.sum(1) > 0)


def _draw_completions(rng: Random) -> tuple:
    width = rng.randint(5, 8)
    lengths = rng.choices(range(1, width + 1), k=rng.randint(2, 4))
    return _batch(rng.randrange(2**31), lengths, width, rng.choice((0.1, 0.2, 0.3)))


GRPO_LOSS = Check(
    "grpo_loss",
    grpo_loss,
    draw=_draw_completions,
    cases=(
        Case("三条回答，长短不一", _batch(1, [5, 2, 4], 6), "每个词元的损失乘掩码 (mask)，沿时间求和，再除以这条回答自己的长度"),
        Case("三条回答，正好三个词元宽", _batch(2, [3, 1, 2], 3), "advantages 每条回答一个，用 unsqueeze(1) 让它沿时间广播 (broadcast)"),
        Case("ε=0.1", _batch(3, [4, 4], 4, 0.1), "裁剪的范围用传入的 epsilon"),
        Case("有一条全是填充", _batch(4, [3, 0], 4), "长度为 0 时不要除以 0：clamp(min=1)，这条的损失是 0", edge=True),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("对填充求了平均", lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).mean(1), "除以的是这条回答自己的长度 mask.sum(1)，不是补齐后的宽度"),
        Mistake("填充也计入", lambda n, o, a, m, e: _losses(n, o, a.unsqueeze(1), e).mean(1), "没有用掩码 (mask)：填充处的损失也算进去了"),
        Mistake("忘了负号", lambda *args: -grpo_loss(*args), "这是要最大化的目标；作为损失要取负"),
        Mistake("没有裁剪", lambda n, o, a, m, e: _row_mean(-torch.exp(n - o) * a.unsqueeze(1), m), "少了裁剪 (clip)：min(ratio·A, clip(ratio)·A)"),
        Mistake("只有裁剪项", lambda n, o, a, m, e: _row_mean(-torch.exp(n - o).clamp(1 - e, 1 + e) * a.unsqueeze(1), m), "裁剪项要和没裁剪的比较，取较小的"),
        Mistake("新旧颠倒", lambda n, o, a, m, e: grpo_loss(o, n, a, m, e), "ratio = exp(logps - old_logps)，颠倒了"),
        Mistake("优势没有升维", lambda n, o, a, m, e: _row_mean(_losses(n, o, a, e), m), "advantages 是 (batch,)，直接乘会沿错的一维广播：先 unsqueeze(1)"),
        Mistake("整句的 ratio", _sequence_ratio, "GRPO 的 ratio 是逐词元的：exp 在求和之前（整句的是 GSPO 一类）"),
        Mistake("长度为 0 时除以零", lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).sum(1) / m.sum(1), "有一条全是填充时 0/0 得 NaN，会毁掉整批：分母用 clamp(min=1)"),
        Mistake("整批求平均", lambda *args: grpo_loss(*args).mean(), "每条回答返回一个数，平均留给下一步"),
        Mistake("没有除以长度", lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).sum(1), "求和之后还要除以这条回答的长度"),
    ),
)  # fmt: skip


def _draw_batch_size(rng: Random) -> tuple:
    """A step of whole groups, or of any number of completions."""
    group = rng.randint(2, 32)
    batch = group * rng.randint(1, 40) if rng.random() < 0.5 else rng.randint(1, 1000)
    return batch, rng.randint(1, 64), rng.randint(1, 128), group


PROMPTS_PER_STEP = Check(
    "prompts_per_step",
    prompts_per_step,
    draw=_draw_batch_size,
    cases=(
        Case("批 8，1 卡，累积 4，每题 8 条", (8, 1, 4, 8), "一步的回答数 = 批 × 卡数 × 累积；再除以每题的条数，得到不同的题数"),
        Case("批 6，2 卡，累积 1，每题 4 条", (6, 2, 1, 4), "卡数也要乘进去"),
        Case("批 3，1 卡，累积 4，每题 6 条", (3, 1, 4, 6), "能不能整除看的是整步的回答数，不是单卡的批大小"),
        Case("批 4，1 卡，累积 2，每题 6 条", (4, 1, 2, 6), "8 条不能分成每组 6 条：返回 0"),
        Case("每题 1 条", (8, 1, 1, 1), "一条没有可比的，不成组：返回 0", edge=True),
    ),
    mistakes=(
        Mistake("没有累积", lambda b, d, a, n: prompts_per_step(b, d, 1, n), "梯度累积 (gradient accumulation) 的几个小批合成一步，要乘进去"),
        Mistake("没有卡数", lambda b, d, a, n: prompts_per_step(b, 1, a, n), "per_device_batch 是每张卡的，要乘卡数"),
        Mistake("只看单卡的批", lambda b, d, a, n: b * d * a // n if n > 1 and b % n == 0 else 0, "能不能整除看整步的回答数（批 × 卡数 × 累积），不是单卡的批大小"),
        Mistake("没有看整除", lambda b, d, a, n: b * d * a // n if n > 1 else 0, "不能整除时最后一组不完整，TRL 会报错：返回 0"),
        Mistake("返回回答数", lambda b, d, a, n: b * d * a if n > 1 and b * d * a % n == 0 else 0, "这是回答的条数；每 num_generations 条是同一道题"),
        Mistake("批当成题数", lambda b, d, a, n: b * d * a * n, "TRL 的批大小数的是回答 (completion)，不是题：要除，不是乘"),
        Mistake("一条也成组", lambda b, d, a, n: 0 if b * d * a % n else b * d * a // n, "每组至少 2 条才能互相比较"),
        Mistake("返回真假", lambda b, d, a, n: prompts_per_step(b, d, a, n) > 0, "返回不同题目的个数，不能整除时返回 0"),
        Mistake("向上取整", lambda b, d, a, n: math.ceil(b * d * a / n), "不完整的一组不能用：不能整除时返回 0"),
    ),
)  # fmt: skip
