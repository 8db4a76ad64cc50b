"""Checks of GRPO: advantages within groups, its loss, what a step holds."""

import math
from random import Random

import torch

from lab_utils import align
from lab_utils.checks.frame import Case, Check, Mistake

__all__ = [
    "FRAC_REWARD_ZERO_STD",
    "GROUP_ADVANTAGES",
    "GRPO_LOSS",
    "PROMPTS_PER_STEP",
    "frac_reward_zero_std",
    "group_advantages",
    "grpo_loss",
    "prompts_per_step",
]


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


_REWARDS = torch.tensor([2.5, 0.5, 0.0, 3.0, 0.5, 0.5, 2.0, 0.0])
_SOME_EQUAL = torch.tensor([1.0, 1.0, 1.0, 0.0, 2.0, 0.5])


def _grouped(change):
    """An answer that applies `change(groups, rewards)` to the rewards in rows and flattens the result."""
    return lambda rewards, size: change(rewards.view(-1, size), rewards).flatten()


def _by_stride(rewards, size):
    groups = rewards.view(size, -1)
    return ((groups - groups.mean(0)) / (groups.std(0) + 1e-4)).flatten()


def _draw_groups(rng: Random) -> tuple:
    """Rewards of groups, all equal in some: in eighths, whose mean is exact and whose deviation is then 0."""
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
        Case(
            "两组，每组 4 条",
            (_REWARDS, 4),
            "同一个提示词的回答挨在一起：rewards.view(-1, group_size)，按行求平均和标准差",
        ),
        Case("四组，每组 2 条", (_REWARDS, 2), "标准差用 torch 默认的（除以 n-1），再加 1e-4"),
        Case(
            "有一组全相等",
            (_SOME_EQUAL, 3),
            "标准差为 0 时，除之前先加 1e-4，优势 (advantage) 就是 0，不是 NaN",
        ),
        Case("只有一组", (torch.tensor([0.0, 1.0, 5.0]), 3), "返回的形状与 rewards 相同", edge=True),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "整批的标准差",
            _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (r.std() + 1e-4)),
            "标准差要在每组之内求，不是整批",
        ),
        Mistake(
            "整批的平均",
            lambda r, n: (r - r.mean()) / (r.std() + 1e-4),
            "平均和标准差都要在每组之内求：难题的组整体得分低，不该都受罚",
        ),
        Mistake(
            "除以零",
            _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / g.std(1, keepdim=True)),
            "全组相等时标准差是 0，0/0 是 NaN：除以 (标准差 + 1e-4)",
        ),
        Mistake(
            "别的 ε",
            _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True) + 1e-8)),
            "避免了除以零，但 TRL 加的是 1e-4，结果要与它相等",
        ),
        Mistake(
            "有偏的标准差",
            _grouped(
                lambda g, r: (g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True, unbiased=False) + 1e-4)
            ),
            "TRL 用 torch 默认的标准差（除以 n-1），你的除以了 n",
        ),
        Mistake(
            "没有除",
            _grouped(lambda g, r: g - g.mean(1, keepdim=True)),
            "还要除以每组的标准差（不除的做法是 Dr. GRPO）",
        ),
        Mistake(
            "除以方差",
            _grouped(lambda g, r: (g - g.mean(1, keepdim=True)) / (g.var(1, keepdim=True) + 1e-4)),
            "除以标准差 (std)，不是方差 (var)",
        ),
        Mistake(
            "没有减平均",
            _grouped(lambda g, r: g / (g.std(1, keepdim=True) + 1e-4)),
            "先减去组的平均：比组内平均好的才是正的",
        ),
        Mistake("符号反了", lambda r, n: -align.grpo_advantages(r, n), "比平均高的优势应为正"),
        Mistake(
            "组分错了",
            _by_stride,
            "每组是挨着的 group_size 条：view(-1, group_size)，不是 view(group_size, -1)",
        ),
        Mistake(
            "没有展平",
            lambda r, n: align.grpo_advantages(r, n).view(-1, n),
            "结果要和 rewards 一样是一维的，用 .flatten()",
        ),
    ),
)


FRAC_REWARD_ZERO_STD = Check(
    "frac_reward_zero_std",
    frac_reward_zero_std,
    draw=_draw_groups,
    cases=(
        Case(
            "四组里两组相等",
            (torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.5]), 2),
            "全组相等就学不到东西，不管是全对还是全错",
        ),
        Case("两组，都不相等", (torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]), 3), "应为 0.0"),
        Case(
            "两组，各自相等",
            (torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), 3),
            "应为 1.0：整批有高有低，组内却没有",
        ),
        Case("正负相抵", (torch.tensor([-1.0, 1.0, 0.5, 0.5]), 2), "平均为 0 不等于标准差为 0", edge=True),
    ),
    mistakes=(
        Mistake("看整批", lambda r, n: float(r.std() == 0), "要看每组之内的标准差，不是整批"),
        Mistake(
            "只算全错",
            lambda r, n: (r.view(-1, n) == 0).all(1).float().mean().item(),
            "全对的组也一样没有信号：看是否相等，不是看是否为 0",
        ),
        Mistake(
            "看平均",
            lambda r, n: (r.view(-1, n).mean(1) == 0).float().mean().item(),
            "看标准差是否为 0，不是平均",
        ),
        Mistake("返回个数", lambda r, n: (r.view(-1, n).std(1) == 0).sum().item(), "要比例：再除以组数"),
        Mistake("反了", lambda r, n: 1 - align.frac_reward_zero_std(r, n), "这是还有信号的组的比例"),
        Mistake(
            "组分错了",
            lambda r, n: (r.view(n, -1).std(0) == 0).float().mean().item(),
            "每组是挨着的 group_size 条：view(-1, group_size)",
        ),
        Mistake("逐条看", lambda r, n: (r == 0).float().mean().item(), "按组看，不是数奖励为 0 的回答"),
    ),
)


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
        Case(
            "三条回答，长短不一",
            _batch(1, [5, 2, 4], 6),
            "每个词元的损失乘掩码 (mask)，沿时间求和，再除以这条回答自己的长度",
        ),
        Case(
            "三条回答，正好三个词元宽",
            _batch(2, [3, 1, 2], 3),
            "advantages 每条回答一个，用 unsqueeze(1) 让它沿时间广播 (broadcast)",
        ),
        Case("ε=0.1", _batch(3, [4, 4], 4, 0.1), "裁剪的范围用传入的 epsilon"),
        Case(
            "有一条全是填充",
            _batch(4, [3, 0], 4),
            "长度为 0 时不要除以 0：clamp(min=1)，这条的损失是 0",
            edge=True,
        ),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "对填充求了平均",
            lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).mean(1),
            "除以的是这条回答自己的长度 mask.sum(1)，不是补齐后的宽度",
        ),
        Mistake(
            "填充也计入",
            lambda n, o, a, m, e: _losses(n, o, a.unsqueeze(1), e).mean(1),
            "没有用掩码 (mask)：填充处的损失也算进去了",
        ),
        Mistake("忘了负号", lambda *args: -grpo_loss(*args), "这是要最大化的目标；作为损失要取负"),
        Mistake(
            "没有裁剪",
            lambda n, o, a, m, e: _row_mean(-torch.exp(n - o) * a.unsqueeze(1), m),
            "少了裁剪 (clip)：min(ratio·A, clip(ratio)·A)",
        ),
        Mistake(
            "只有裁剪项",
            lambda n, o, a, m, e: _row_mean(-torch.exp(n - o).clamp(1 - e, 1 + e) * a.unsqueeze(1), m),
            "裁剪项要和没裁剪的比较，取较小的",
        ),
        Mistake(
            "新旧颠倒",
            lambda n, o, a, m, e: grpo_loss(o, n, a, m, e),
            "ratio = exp(logps - old_logps)，颠倒了",
        ),
        Mistake(
            "优势没有升维",
            lambda n, o, a, m, e: _row_mean(_losses(n, o, a, e), m),
            "advantages 是 (batch,)，直接乘会沿错的一维广播：先 unsqueeze(1)",
        ),
        Mistake(
            "整句的 ratio", _sequence_ratio, "GRPO 的 ratio 是逐词元的：exp 在求和之前（整句的是 GSPO 一类）"
        ),
        Mistake(
            "长度为 0 时除以零",
            lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).sum(1) / m.sum(1),
            "有一条全是填充时 0/0 得 NaN，会毁掉整批：分母用 clamp(min=1)",
        ),
        Mistake("整批求平均", lambda *args: grpo_loss(*args).mean(), "每条回答返回一个数，平均留给下一步"),
        Mistake(
            "没有除以长度",
            lambda n, o, a, m, e: (_losses(n, o, a.unsqueeze(1), e) * m).sum(1),
            "求和之后还要除以这条回答的长度",
        ),
    ),
)


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
        Case(
            "批 8，1 卡，累积 4，每题 8 条",
            (8, 1, 4, 8),
            "一步的回答数 = 批 × 卡数 × 累积；再除以每题的条数，得到不同的题数",
        ),
        Case("批 6，2 卡，累积 1，每题 4 条", (6, 2, 1, 4), "卡数也要乘进去"),
        Case("批 3，1 卡，累积 4，每题 6 条", (3, 1, 4, 6), "能不能整除看的是整步的回答数，不是单卡的批大小"),
        Case("批 4，1 卡，累积 2，每题 6 条", (4, 1, 2, 6), "8 条不能分成每组 6 条：返回 0"),
        Case("每题 1 条", (8, 1, 1, 1), "一条没有可比的，不成组：返回 0", edge=True),
    ),
    mistakes=(
        Mistake(
            "没有累积",
            lambda b, d, a, n: prompts_per_step(b, d, 1, n),
            "梯度累积 (gradient accumulation) 的几个小批合成一步，要乘进去",
        ),
        Mistake(
            "没有卡数",
            lambda b, d, a, n: prompts_per_step(b, 1, a, n),
            "per_device_batch 是每张卡的，要乘卡数",
        ),
        Mistake(
            "只看单卡的批",
            lambda b, d, a, n: b * d * a // n if n > 1 and b % n == 0 else 0,
            "能不能整除看整步的回答数（批 × 卡数 × 累积），不是单卡的批大小",
        ),
        Mistake(
            "没有看整除",
            lambda b, d, a, n: b * d * a // n if n > 1 else 0,
            "不能整除时最后一组不完整，TRL 会报错：返回 0",
        ),
        Mistake(
            "返回回答数",
            lambda b, d, a, n: b * d * a if n > 1 and b * d * a % n == 0 else 0,
            "这是回答的条数；每 num_generations 条是同一道题",
        ),
        Mistake(
            "批当成题数",
            lambda b, d, a, n: b * d * a * n,
            "TRL 的批大小数的是回答 (completion)，不是题：要除，不是乘",
        ),
        Mistake(
            "一条也成组",
            lambda b, d, a, n: 0 if b * d * a % n else b * d * a // n,
            "每组至少 2 条才能互相比较",
        ),
        Mistake(
            "返回真假",
            lambda b, d, a, n: prompts_per_step(b, d, a, n) > 0,
            "返回不同题目的个数，不能整除时返回 0",
        ),
        Mistake(
            "向上取整", lambda b, d, a, n: math.ceil(b * d * a / n), "不完整的一组不能用：不能整除时返回 0"
        ),
    ),
)
