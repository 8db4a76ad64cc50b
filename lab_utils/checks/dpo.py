"""Checks of lab 08: log-probabilities, the reward model's loss, DPO, PPO's clip and the KL estimate k3."""

from random import Random

import torch
import torch.nn.functional as F

from lab_utils import align
from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal
from lab_utils.data.loss_mask import IGNORE


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


def ppo_clip_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """PPO's clipped loss of every token, before any averaging; all (batch, time)."""
    return -align.clipped_objective(torch.exp(logps - old_logps), advantages, epsilon)


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
        Case("一行，提示占两位", (normal(1, 1, 5, 6), torch.tensor([[IGNORE, IGNORE, 3, 0, 5]])), "logits[:, t] 预测的是第 t+1 个词元：logits 去掉最后一位，labels 去掉第一位"),
        Case("两行，长短不一", (normal(2, 2, 6, 4), torch.tensor([[IGNORE, 1, 2, 3, 0, 1], [IGNORE, IGNORE, 2, 0, IGNORE, IGNORE]])), "标签是 -100 的位置不计入"),
        Case("回答里有编号 0", (normal(3, 2, 4, 3), torch.tensor([[IGNORE, 0, 0, 1], [IGNORE, 2, 0, 0]])), "0 是一个真的词元，用 == -100 判断要不要计入"),
        Case("logits 很大", (normal(4, 1, 4, 5, scale=200.0), torch.tensor([[IGNORE, 1, 4, 2]])), "先 softmax 再 log 会得到 log(0) = -inf，请用 log_softmax", edge=True),
        Case("一行全是 -100", (normal(5, 2, 3, 4), torch.tensor([[IGNORE, 1, 2], [IGNORE, IGNORE, IGNORE]])), "没有要计入的词元时，和是 0", edge=True),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake("没有错位", lambda x, y: _masked_sum(_picked(x.log_softmax(-1), y), y), "要错位 (shift)：第 t 位的 logits 预测的是第 t+1 个词元"),
        Mistake("错位反了", lambda x, y: _masked_sum(_picked(x[:, 1:].log_softmax(-1), y[:, :-1]), y[:, :-1]), "错位的方向反了：去掉 logits 的最后一位和 labels 的第一位"),
        Mistake("求了平均", lambda x, y: _masked_sum(_right_logps(x, y), y[:, 1:]) / (y[:, 1:] != IGNORE).sum(-1), "DPO 用的是整条回答的对数概率：求和 (sum)，不是平均"),
        Mistake("填充也计入", lambda x, y: _right_logps(x, y).sum(-1), "标签为 -100 的位置（提示和填充）要乘 0，不能按词元 0 计入"),
        Mistake("没有取 log", lambda x, y: _masked_sum(_right_logps(x, y).exp(), y[:, 1:]), "这是概率之和；要的是对数概率 (log-probability) 之和"),
        Mistake("没有归一化", lambda x, y: _masked_sum(_picked(x[:, :-1], y[:, 1:]), y[:, 1:]), "logits 还不是概率，先在词表那一维上做 log_softmax"),
        Mistake("归一化错了维", lambda x, y: _masked_sum(_picked(x[:, :-1].log_softmax(1), y[:, 1:]), y[:, 1:]), "softmax 要沿词表 (vocab) 那一维，也就是最后一维"),
        Mistake("先 softmax 再 log", lambda x, y: _masked_sum(_picked(x[:, :-1].softmax(-1).log(), y[:, 1:]), y[:, 1:]), "数学上对，数值上不稳：概率下溢为 0 时 log 得 -inf，用 log_softmax"),
        Mistake("负号", lambda x, y: -align.sequence_logps(x, y), "这是负对数似然 (NLL)；对数概率不加负号，它小于 0"),
        Mistake("直接用 -100 取值", lambda x, y: x[:, :-1].log_softmax(-1).gather(-1, y[:, 1:].unsqueeze(-1)).squeeze(-1).sum(-1), "-100 不是词元编号，gather 之前先换成任意一个合法编号，再把那些位置乘 0"),
        Mistake("整批求和", lambda x, y: align.sequence_logps(x, y).sum(), "每行一个数：只沿时间那一维求和"),
    ),
)  # fmt: skip

_FAR = torch.tensor([200.0, -200.0])


def _draw_rewards(rng: Random) -> tuple:
    pairs = rng.randint(3, 8)
    return normal(rng, pairs), normal(rng, pairs)


BRADLEY_TERRY_LOSS = Check(
    "bradley_terry_loss",
    align.bradley_terry_loss,
    draw=_draw_rewards,
    cases=(
        Case("三对奖励", (torch.tensor([1.0, 0.2, -1.5]), torch.tensor([0.5, 0.9, -1.0])), "每对一个损失：-log sigmoid(r_chosen - r_rejected)"),
        Case("奖励相等", (torch.tensor([2.0, -3.0]), torch.tensor([2.0, -3.0])), "分不出高下时，概率是 1/2，损失是 ln 2"),
        Case("差很大", (_FAR, -_FAR), "sigmoid 会下溢为 0，log(0) 是 -inf：用 F.logsigmoid", edge=True),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("符号反了", lambda c, r: -F.logsigmoid(r - c), "减反了：chosen 的奖励越高，损失应越小"),
        Mistake("忘了负号", lambda c, r: F.logsigmoid(c - r), "损失要最小化，所以是负的对数似然；你的结果都小于 0"),
        Mistake("没有取 log", lambda c, r: 1 - torch.sigmoid(c - r), "这是选错的概率；损失是选对的概率的负对数"),
        Mistake("合页损失", lambda c, r: torch.relu(1 - (c - r)), "这是合页损失 (hinge)；Bradley-Terry 用 sigmoid"),
        Mistake("各自过 sigmoid", lambda c, r: -F.logsigmoid(c) - F.logsigmoid(-r), "先相减再过 sigmoid：模型只看奖励之差，各自的绝对值没有意义"),
        Mistake("先 sigmoid 再 log", lambda c, r: -torch.log(torch.sigmoid(c - r)), "差很大时 sigmoid 下溢为 0，损失成了 inf：用 F.logsigmoid"),
        Mistake("求了平均", lambda c, r: -F.logsigmoid(c - r).mean(), "每对返回一个数，平均留给下一步"),
    ),
)  # fmt: skip


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
        Case("四对，β=0.1", (*_pair_logps(11, 4), 0.1), "先各自减去参考模型的对数概率，再 chosen 减 rejected，乘 β，过 -log sigmoid"),
        Case("三对，β=0.5", (*_pair_logps(21, 3), 0.5), "β 用传入的值，并且在 sigmoid 里面"),
        Case("第 0 步", (*_START, *_START, 0.1), "训练前策略就是参考模型，损失正好是 ln 2"),
        Case("差很大", (*_DRIFTED, 0.5), "sigmoid 下溢为 0 时 log 得 -inf：用 F.logsigmoid", edge=True),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake("符号反了", lambda c, r, a, b, beta: -F.logsigmoid(-beta * ((c - a) - (r - b))), "chosen 和 rejected 减反了：chosen 相对上升时损失应变小"),
        Mistake("忘了负号", lambda c, r, a, b, beta: F.logsigmoid(beta * ((c - a) - (r - b))), "损失要最小化：log sigmoid 前面有负号"),
        Mistake("β 在外面", lambda c, r, a, b, beta: -beta * F.logsigmoid((c - a) - (r - b)), "β 在 sigmoid 里面，乘的是对数比之差，不是损失"),
        Mistake("没有参考模型", lambda c, r, a, b, beta: -F.logsigmoid(beta * (c - r)), "少了参考模型 (reference)：比的是“比参考模型高了多少”，不是对数概率本身"),
        Mistake("加上参考模型", lambda c, r, a, b, beta: -F.logsigmoid(beta * ((c - r) + (a - b))), "参考模型的符号反了，或者两条的参考对调了：chosen 减 chosen 的参考，rejected 减 rejected 的参考，再相减"),
        Mistake("β 只乘策略", lambda c, r, a, b, beta: -F.logsigmoid(beta * (c - r) - (a - b)), "β 乘的是整个差，包括参考模型那一项"),
        Mistake("写死 β", lambda c, r, a, b, beta: -F.logsigmoid(0.1 * ((c - a) - (r - b))), "β 是参数，不要写死成 0.1"),
        Mistake("没有取 log", lambda c, r, a, b, beta: 1 - torch.sigmoid(beta * ((c - a) - (r - b))), "这是选错的概率；损失是选对的概率的负对数"),
        Mistake("先 sigmoid 再 log", lambda c, r, a, b, beta: -torch.log(torch.sigmoid(beta * ((c - a) - (r - b)))), "差很大时 sigmoid 下溢为 0，损失成了 inf：用 F.logsigmoid"),
        Mistake("求了平均", lambda c, r, a, b, beta: align.dpo_loss(c, r, a, b, beta).mean(), "每对返回一个数，平均留给下一步"),
    ),
)  # fmt: skip


def _stats(chosen: torch.Tensor, rejected: torch.Tensor) -> tuple[float, float]:
    return (chosen - rejected).mean().item(), (chosen > rejected).float().mean().item()


REWARD_STATS = Check(
    "reward_stats",
    reward_stats,
    draw=_draw_pairs,
    cases=(
        Case("八对，β=0.1", (*_pair_logps(41, 8), 0.1), "隐式奖励 = β × (log π - log π_ref)；返回 (平均差, 差大于 0 的比例)，用 .item() 变成数"),
        Case("五对，β=0.5", (*_pair_logps(52, 5), 0.5), "平均差与 β 成正比，准确率与 β 无关"),
        Case("第 0 步", (*_START, *_START, 0.1), "策略等于参考模型时奖励都是 0：没有一对是分出高下的"),
    ),
    tolerance=1e-4,
    mistakes=(
        Mistake("没有 β", lambda c, r, a, b, beta: _stats(c - a, r - b), "隐式奖励要乘 β"),
        Mistake("没有参考模型", lambda c, r, a, b, beta: _stats(beta * c, beta * r), "隐式奖励是相对参考模型的：先减去 π_ref 的对数概率"),
        Mistake("相等也算对", lambda c, r, a, b, beta: (_stats(beta * (c - a), beta * (r - b))[0], (c - a >= r - b).float().mean().item()), "没分出高下不算对：用 > 而不是 >=。否则训练前的准确率就是 1"),
        Mistake("求和", lambda c, r, a, b, beta: (beta * ((c - a) - (r - b)).sum().item(), reward_stats(c, r, a, b, beta)[1]), "差 (margin) 要对所有的对求平均，不是求和"),
        Mistake("绝对值", lambda c, r, a, b, beta: (beta * ((c - a) - (r - b)).abs().mean().item(), reward_stats(c, r, a, b, beta)[1]), "差有正有负，负的说明这一对排反了，不要取绝对值"),
        Mistake("百分数", lambda c, r, a, b, beta: (reward_stats(c, r, a, b, beta)[0], 100 * reward_stats(c, r, a, b, beta)[1]), "准确率返回 0 到 1 之间的小数"),
        Mistake("方向反了", lambda c, r, a, b, beta: _stats(beta * (r - b), beta * (c - a)), "是 chosen 的奖励减 rejected 的奖励"),
        Mistake("顺序反了", lambda c, r, a, b, beta: reward_stats(c, r, a, b, beta)[::-1], "先返回平均差，再返回准确率"),
        Mistake("只看 chosen", lambda c, r, a, b, beta: ((beta * (c - a)).mean().item(), (c > a).float().mean().item()), "chosen 的奖励要和同一对的 rejected 比，不是和 0 比"),
    ),
)  # fmt: skip


def _token_logps(seed: int, rows: int, width: int) -> tuple[torch.Tensor, ...]:
    """Log-probabilities of tokens under the new and the old policy, and advantages of both signs."""
    old = -normal(seed, rows, width).abs()
    return old + normal(seed + 1, rows, width, scale=0.5), old, normal(seed + 2, rows, width)


def _clip_terms(logps, old, epsilon):
    ratio = torch.exp(logps - old)
    return ratio, ratio.clamp(1 - epsilon, 1 + epsilon)


def _clip_before_advantage(logps, old, advantages, epsilon):
    ratio, clipped = _clip_terms(logps, old, epsilon)
    return -torch.min(ratio, clipped) * advantages


_SAME = (_token_logps(71, 2, 3)[1], _token_logps(71, 2, 3)[1], _token_logps(71, 2, 3)[2])


def _draw_token_logps(rng: Random) -> tuple[torch.Tensor, ...]:
    return _token_logps(rng.randrange(2**31), rng.randint(2, 4), rng.randint(3, 7))


def _draw_clip(rng: Random) -> tuple:
    return *_draw_token_logps(rng), rng.choice((0.1, 0.15, 0.3))


PPO_CLIP_LOSS = Check(
    "ppo_clip_loss",
    ppo_clip_loss,
    draw=_draw_clip,
    cases=(
        Case("两条回答，ε=0.2", (*_token_logps(61, 2, 6), 0.2), "ratio = exp(新 - 旧)；取 ratio·A 与 clip(ratio)·A 中较小的，再取负"),
        Case("三条回答，ε=0.1", (*_token_logps(64, 3, 5), 0.1), "裁剪的范围是 1-ε 到 1+ε，ε 用传入的值"),
        Case("更新之前", (*_SAME, 0.2), "新旧策略相同时 ratio 是 1，损失就是 -A"),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("忘了负号", lambda n, o, a, e: -ppo_clip_loss(n, o, a, e), "这是要最大化的目标；作为损失要取负"),
        Mistake("取了较大的", lambda n, o, a, e: -torch.max(_clip_terms(n, o, e)[0] * a, _clip_terms(n, o, e)[1] * a), "PPO 取两者中较小的 (min)，即悲观的那个"),
        Mistake("没有裁剪", lambda n, o, a, e: -_clip_terms(n, o, e)[0] * a, "少了裁剪 (clip) 的那一项"),
        Mistake("只有裁剪项", lambda n, o, a, e: -_clip_terms(n, o, e)[1] * a, "裁剪项要和没裁剪的比较取较小者；只用裁剪项，走错了方向也拉不回来"),
        Mistake("新旧颠倒", lambda n, o, a, e: ppo_clip_loss(o, n, a, e), "ratio = π / π_old = exp(logps - old_logps)，颠倒了"),
        Mistake("没有取指数", lambda n, o, a, e: -torch.min((n - o) * a, (n - o).clamp(1 - e, 1 + e) * a), "对数概率相减得到的是 log ratio，还要取指数"),
        Mistake("先取小再乘 A", _clip_before_advantage, "先各自乘 A 再取较小的：A 为负时大小会颠倒"),
        Mistake("裁剪了乘积", lambda n, o, a, e: -torch.min(_clip_terms(n, o, e)[0] * a, (_clip_terms(n, o, e)[0] * a).clamp(1 - e, 1 + e)), "裁剪的是 ratio，不是 ratio·A"),
        Mistake("写死 ε", lambda n, o, a, e: ppo_clip_loss(n, o, a, 0.2), "ε 是参数，不要写死成 0.2"),
        Mistake("求了平均", lambda n, o, a, e: ppo_clip_loss(n, o, a, e).mean(), "每个词元返回一个数，平均要等到乘过掩码 (mask) 之后"),
    ),
)  # fmt: skip


def _draw_policies(rng: Random) -> tuple:
    return _draw_token_logps(rng)[:2]


KL_K3 = Check(
    "kl_k3",
    align.kl_k3,
    draw=_draw_policies,
    cases=(
        Case("两条回答", _token_logps(81, 2, 5)[:2], "令 r = π_ref / π = exp(ref_logps - logps)，k3 = r - 1 - log r"),
        Case("概率相差更大", (normal(84, 3, 4, scale=1.5), normal(85, 3, 4, scale=1.5)), "每个词元一个数，都不小于 0"),
        Case("两个模型相同", (normal(86, 2, 3), normal(86, 2, 3)), "没有差别时正好是 0"),
    ),
    tolerance=1e-5,
    mistakes=(
        Mistake("k1", align.kl_k1, "这是 k1：平均起来对，但单个值可以为负，方差也大"),
        Mistake("k2", align.kl_k2, "这是 k2 (log r)²/2：不会为负，但有偏 (biased)"),
        Mistake("r 颠倒", lambda n, ref: align.kl_k3(ref, n), "r = π_ref / π，词元是 π 生成的；颠倒之后估计的不再是 KL(π‖π_ref)"),
        Mistake("符号反了", lambda n, ref: -align.kl_k3(n, ref), "k3 = r - 1 - log r，不会为负"),
        Mistake("忘了减 1", lambda n, ref: align.kl_k3(n, ref) + 1, "少减了 1：两个模型相同时应为 0"),
        Mistake("忘了 log r", lambda n, ref: torch.expm1(ref - n), "少了 -log r：现在可以为负"),
        Mistake("log r 的符号", lambda n, ref: torch.expm1(ref - n) + (ref - n), "log r 前面是减号"),
        Mistake("绝对值", lambda n, ref: (n - ref).abs(), "取绝对值不会为负，却不再是 KL 的无偏估计"),
        Mistake("求了平均", lambda n, ref: align.kl_k3(n, ref).mean(), "每个词元返回一个数"),
    ),
)  # fmt: skip
