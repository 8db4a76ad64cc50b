"""Checks of preference pairs: log-probabilities, Bradley-Terry, DPO."""

from random import Random

import torch
import torch.nn.functional as F

from lab_utils import align
from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal
from lab_utils.data.loss_mask import IGNORE

__all__ = [
    "BRADLEY_TERRY_LOSS",
    "DPO_LOSS",
    "REWARD_STATS",
    "SEQUENCE_LOGPS",
    "reward_stats",
    "sequence_logps",
]


def sequence_logps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed log-probability of each row's labels; (batch, seq, vocab), (batch, seq) to (batch,)."""
    return align.sequence_logps(logits, labels)


def reward_stats(
    logps_chosen: torch.Tensor,
    logps_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[float, float]:
    """`(margin, accuracy)` of DPO's implicit rewards: mean difference, and share of pairs above 0."""
    chosen = align.implicit_rewards(logps_chosen, ref_chosen, beta)
    rejected = align.implicit_rewards(logps_rejected, ref_rejected, beta)
    return (chosen - rejected).mean().item(), align.reward_accuracy(chosen, rejected).item()


def _picked(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`logits` at the labels, 0 in place of an ignored label; no shift."""
    return logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def _masked_sum(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return values.where(labels != IGNORE, 0.0).sum(-1)


def _right_logps(logits, labels):
    return _picked(logits[:, :-1].log_softmax(-1), labels[:, 1:])


def _draw_logits(rng: Random) -> tuple:
    rows, length, vocab = rng.randint(2, 4), rng.randint(4, 7), rng.randint(4, 8)
    labels = torch.tensor([rng.choices(range(vocab), k=length) for _ in range(rows)])
    labels[:, : rng.randint(1, 2)] = IGNORE
    labels[0, -1] = IGNORE
    return normal(rng, rows, length, vocab), labels


SEQUENCE_LOGPS = Check(
    "sequence_logps",
    sequence_logps,
    draw=_draw_logits,
    cases=(
        Case(
            "一行，提示占两位",
            (normal(1, 1, 5, 6), torch.tensor([[IGNORE, IGNORE, 3, 0, 5]])),
            "logits[:, t] 预测的是第 t+1 个词元：logits 去掉最后一位，labels 去掉第一位",
        ),
        Case(
            "两行，长短不一",
            (
                normal(2, 2, 6, 4),
                torch.tensor([[IGNORE, 1, 2, 3, 0, 1], [IGNORE, IGNORE, 2, 0, IGNORE, IGNORE]]),
            ),
            "标签是 -100 的位置不计入",
        ),
        Case(
            "回答里有编号 0",
            (normal(3, 2, 4, 3), torch.tensor([[IGNORE, 0, 0, 1], [IGNORE, 2, 0, 0]])),
            "0 是一个真的词元，用 == -100 判断要不要计入",
        ),
        Case(
            "logits 很大",
            (normal(4, 1, 4, 5, scale=200.0), torch.tensor([[IGNORE, 1, 4, 2]])),
            "先 softmax 再 log 会得到 log(0) = -inf，请用 log_softmax",
            edge=True,
        ),
        Case(
            "一行全是 -100",
            (normal(5, 2, 3, 4), torch.tensor([[IGNORE, 1, 2], [IGNORE, IGNORE, IGNORE]])),
            "没有要计入的词元时，和是 0",
            edge=True,
        ),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "没有错位",
            lambda x, y: _masked_sum(_picked(x.log_softmax(-1), y), y),
            "要错位 (shift)：第 t 位的 logits 预测的是第 t+1 个词元",
        ),
        Mistake(
            "错位反了",
            lambda x, y: _masked_sum(_picked(x[:, 1:].log_softmax(-1), y[:, :-1]), y[:, :-1]),
            "错位的方向反了：去掉 logits 的最后一位和 labels 的第一位",
        ),
        Mistake(
            "求了平均",
            lambda x, y: _masked_sum(_right_logps(x, y), y[:, 1:]) / (y[:, 1:] != IGNORE).sum(-1),
            "DPO 用的是整条回答的对数概率：求和 (sum)，不是平均",
        ),
        Mistake(
            "填充也计入",
            lambda x, y: _right_logps(x, y).sum(-1),
            "标签为 -100 的位置（提示和填充）要乘 0，不能按词元 0 计入",
        ),
        Mistake(
            "没有取 log",
            lambda x, y: _masked_sum(_right_logps(x, y).exp(), y[:, 1:]),
            "这是概率之和；要的是对数概率 (log-probability) 之和",
        ),
        Mistake(
            "没有归一化",
            lambda x, y: _masked_sum(_picked(x[:, :-1], y[:, 1:]), y[:, 1:]),
            "logits 还不是概率，先在词表那一维上做 log_softmax",
        ),
        Mistake(
            "归一化错了维",
            lambda x, y: _masked_sum(_picked(x[:, :-1].log_softmax(1), y[:, 1:]), y[:, 1:]),
            "softmax 要沿词表 (vocab) 那一维，也就是最后一维",
        ),
        Mistake(
            "先 softmax 再 log",
            lambda x, y: _masked_sum(_picked(x[:, :-1].softmax(-1).log(), y[:, 1:]), y[:, 1:]),
            "数学上对，数值上不稳：概率下溢为 0 时 log 得 -inf，用 log_softmax",
        ),
        Mistake(
            "负号",
            lambda x, y: -align.sequence_logps(x, y),
            "这是负对数似然 (NLL)；对数概率不加负号，它小于 0",
        ),
        Mistake(
            "直接用 -100 取值",
            lambda x, y: x[:, :-1].log_softmax(-1).gather(-1, y[:, 1:].unsqueeze(-1)).squeeze(-1).sum(-1),
            "-100 不是词元编号，gather 之前先换成任意一个合法编号，再把那些位置乘 0",
        ),
        Mistake("整批求和", lambda x, y: align.sequence_logps(x, y).sum(), "每行一个数：只沿时间那一维求和"),
    ),
)


_FAR = torch.tensor([200.0, -200.0])


def _draw_rewards(rng: Random) -> tuple:
    pairs = rng.randint(3, 8)
    return normal(rng, pairs), normal(rng, pairs)


BRADLEY_TERRY_LOSS = Check(
    "bradley_terry_loss",
    align.bradley_terry_loss,
    draw=_draw_rewards,
    cases=(
        Case(
            "三对奖励",
            (torch.tensor([1.0, 0.2, -1.5]), torch.tensor([0.5, 0.9, -1.0])),
            "每对一个损失：-log sigmoid(r_chosen - r_rejected)",
        ),
        Case(
            "奖励相等",
            (torch.tensor([2.0, -3.0]), torch.tensor([2.0, -3.0])),
            "分不出高下时，概率是 1/2，损失是 ln 2",
        ),
        Case("差很大", (_FAR, -_FAR), "sigmoid 会下溢为 0，log(0) 是 -inf：用 F.logsigmoid", edge=True),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("符号反了", lambda c, r: -F.logsigmoid(r - c), "减反了：chosen 的奖励越高，损失应越小"),
        Mistake(
            "忘了负号", lambda c, r: F.logsigmoid(c - r), "损失要最小化，所以是负的对数似然；你的结果都小于 0"
        ),
        Mistake(
            "没有取 log", lambda c, r: 1 - torch.sigmoid(c - r), "这是选错的概率；损失是选对的概率的负对数"
        ),
        Mistake(
            "合页损失", lambda c, r: torch.relu(1 - (c - r)), "这是合页损失 (hinge)；Bradley-Terry 用 sigmoid"
        ),
        Mistake(
            "各自过 sigmoid",
            lambda c, r: -F.logsigmoid(c) - F.logsigmoid(-r),
            "先相减再过 sigmoid：模型只看奖励之差，各自的绝对值没有意义",
        ),
        Mistake(
            "先 sigmoid 再 log",
            lambda c, r: -torch.log(torch.sigmoid(c - r)),
            "差很大时 sigmoid 下溢为 0，损失成了 inf：用 F.logsigmoid",
        ),
        Mistake("求了平均", lambda c, r: -F.logsigmoid(c - r).mean(), "每对返回一个数，平均留给下一步"),
    ),
)


def _pair_logps(seed: int, pairs: int) -> tuple[torch.Tensor, ...]:
    """Plausible log-probabilities of `pairs` pairs: policy chosen, rejected, reference chosen, rejected."""
    reference = -20 - normal(seed, 2, pairs, scale=6.0).abs()
    policy = reference + normal(seed + 1, 2, pairs, scale=4.0)
    return *policy, *reference


_START = _pair_logps(31, 3)[2:]
_DRIFTED = (torch.tensor([-4000.0]), torch.tensor([-10.0]), torch.tensor([-10.0]), torch.tensor([-4000.0]))


def _draw_pairs(rng: Random) -> tuple:
    pairs = rng.randint(3, 7)
    return *(normal(rng, pairs, scale=3.0) - 20 for _ in range(4)), rng.uniform(0.05, 0.5)


DPO_LOSS = Check(
    "dpo_loss",
    lambda c, r, ref_c, ref_r, beta: align.dpo_loss(c, r, ref_c, ref_r, beta),
    draw=_draw_pairs,
    cases=(
        Case(
            "四对，β=0.1",
            (*_pair_logps(11, 4), 0.1),
            "先各自减去参考模型的对数概率，再 chosen 减 rejected，乘 β，过 -log sigmoid",
        ),
        Case("三对，β=0.5", (*_pair_logps(21, 3), 0.5), "β 用传入的值，并且在 sigmoid 里面"),
        Case("第 0 步", (*_START, *_START, 0.1), "训练前策略就是参考模型，损失正好是 ln 2"),
        Case("差很大", (*_DRIFTED, 0.5), "sigmoid 下溢为 0 时 log 得 -inf：用 F.logsigmoid", edge=True),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "符号反了",
            lambda c, r, a, b, beta: -F.logsigmoid(-beta * ((c - a) - (r - b))),
            "chosen 和 rejected 减反了：chosen 相对上升时损失应变小",
        ),
        Mistake(
            "忘了负号",
            lambda c, r, a, b, beta: F.logsigmoid(beta * ((c - a) - (r - b))),
            "损失要最小化：log sigmoid 前面有负号",
        ),
        Mistake(
            "β 在外面",
            lambda c, r, a, b, beta: -beta * F.logsigmoid((c - a) - (r - b)),
            "β 在 sigmoid 里面，乘的是对数比之差，不是损失",
        ),
        Mistake(
            "没有参考模型",
            lambda c, r, a, b, beta: -F.logsigmoid(beta * (c - r)),
            "少了参考模型 (reference)：比的是“比参考模型高了多少”，不是对数概率本身",
        ),
        Mistake(
            "加上参考模型",
            lambda c, r, a, b, beta: -F.logsigmoid(beta * ((c - r) + (a - b))),
            "参考模型的符号反了，或者两条的参考对调了："
            "chosen 减 chosen 的参考，rejected 减 rejected 的参考，再相减",
        ),
        Mistake(
            "β 只乘策略",
            lambda c, r, a, b, beta: -F.logsigmoid(beta * (c - r) - (a - b)),
            "β 乘的是整个差，包括参考模型那一项",
        ),
        Mistake(
            "写死 β",
            lambda c, r, a, b, beta: -F.logsigmoid(0.1 * ((c - a) - (r - b))),
            "β 是参数，不要写死成 0.1",
        ),
        Mistake(
            "没有取 log",
            lambda c, r, a, b, beta: 1 - torch.sigmoid(beta * ((c - a) - (r - b))),
            "这是选错的概率；损失是选对的概率的负对数",
        ),
        Mistake(
            "先 sigmoid 再 log",
            lambda c, r, a, b, beta: -torch.log(torch.sigmoid(beta * ((c - a) - (r - b)))),
            "差很大时 sigmoid 下溢为 0，损失成了 inf：用 F.logsigmoid",
        ),
        Mistake(
            "求了平均",
            lambda c, r, a, b, beta: align.dpo_loss(c, r, a, b, beta).mean(),
            "每对返回一个数，平均留给下一步",
        ),
    ),
)


def _stats(chosen: torch.Tensor, rejected: torch.Tensor) -> tuple[float, float]:
    return (chosen - rejected).mean().item(), (chosen > rejected).float().mean().item()


def _ties_count_as_right(c, r, a, b, beta):
    margin = beta * ((c - a) - (r - b))
    return margin.mean().item(), (c - a >= r - b).float().mean().item()


def _summed_margin(c, r, a, b, beta):
    return beta * ((c - a) - (r - b)).sum().item(), reward_stats(c, r, a, b, beta)[1]


def _absolute_margin(c, r, a, b, beta):
    return beta * ((c - a) - (r - b)).abs().mean().item(), reward_stats(c, r, a, b, beta)[1]


def _accuracy_in_per_cent(c, r, a, b, beta):
    margin, accuracy = reward_stats(c, r, a, b, beta)
    return margin, 100 * accuracy


REWARD_STATS = Check(
    "reward_stats",
    reward_stats,
    draw=_draw_pairs,
    cases=(
        Case(
            "八对，β=0.1",
            (*_pair_logps(41, 8), 0.1),
            "隐式奖励 = β × (log π - log π_ref)；返回 (平均差, 差大于 0 的比例)，用 .item() 变成数",
        ),
        Case("五对，β=0.5", (*_pair_logps(52, 5), 0.5), "平均差与 β 成正比，准确率与 β 无关"),
        Case("第 0 步", (*_START, *_START, 0.1), "策略等于参考模型时奖励都是 0：没有一对是分出高下的"),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake("没有 β", lambda c, r, a, b, beta: _stats(c - a, r - b), "隐式奖励要乘 β"),
        Mistake(
            "没有参考模型",
            lambda c, r, a, b, beta: _stats(beta * c, beta * r),
            "隐式奖励是相对参考模型的：先减去 π_ref 的对数概率",
        ),
        Mistake(
            "相等也算对", _ties_count_as_right, "没分出高下不算对：用 > 而不是 >=。否则训练前的准确率就是 1"
        ),
        Mistake("求和", _summed_margin, "差 (margin) 要对所有的对求平均，不是求和"),
        Mistake("绝对值", _absolute_margin, "差有正有负，负的说明这一对排反了，不要取绝对值"),
        Mistake("百分数", _accuracy_in_per_cent, "准确率返回 0 到 1 之间的小数"),
        Mistake(
            "方向反了",
            lambda c, r, a, b, beta: _stats(beta * (r - b), beta * (c - a)),
            "是 chosen 的奖励减 rejected 的奖励",
        ),
        Mistake(
            "顺序反了",
            lambda c, r, a, b, beta: reward_stats(c, r, a, b, beta)[::-1],
            "先返回平均差，再返回准确率",
        ),
        Mistake(
            "只看 chosen",
            lambda c, r, a, b, beta: ((beta * (c - a)).mean().item(), (c > a).float().mean().item()),
            "chosen 的奖励要和同一对的 rejected 比，不是和 0 比",
        ),
    ),
)
