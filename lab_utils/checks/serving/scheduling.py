"""Checks of what vLLM gains: continuous batching and paged memory."""

import math
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.serving import scheduling

__all__ = [
    "BLOCKS_NEEDED",
    "CONTINUOUS_STEPS",
    "KV_BYTES_PER_TOKEN",
    "blocks_needed",
    "continuous_steps",
    "kv_bytes_per_token",
    "static_steps",
]


def static_steps(lengths: list[int], slots: int) -> int:
    """Steps that static batching takes for requests that are all there at the start, `slots` a batch."""
    return sum(max(lengths[i : i + slots]) for i in range(0, len(lengths), slots))


def continuous_steps(lengths: list[int], slots: int) -> int:
    """Steps that continuous batching takes: each request in turn gets the slot that is free first."""
    free_at = [0] * slots
    for length in lengths:
        slot = free_at.index(min(free_at))
        free_at[slot] += length
    return max(free_at)


def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype_bytes: int) -> int:
    """Bytes of KV cache a token: a key and a value, in each layer, for each KV head.

    `lab_utils.vram.kv_bytes_per_token` has it for a model's config; the exercise is about the four numbers.
    """
    return 2 * layers * kv_heads * head_dim * dtype_bytes


def blocks_needed(lengths: list[int], block_size: int) -> int:
    """Blocks of `block_size` places that requests of these lengths take; no block is shared."""
    return sum(scheduling.blocks_needed(length, block_size) for length in lengths)


_LENGTHS = [5, 2, 9, 3, 1, 8, 4]


def _earliest_end(lengths, slots):
    free_at = [0] * slots
    for length in lengths:
        free_at[free_at.index(min(free_at))] += length
    return min(free_at)


def _draw_requests(rng: Random) -> tuple:
    return rng.choices(range(1, 60), k=rng.randint(6, 15)), rng.randint(2, 4)


CONTINUOUS_STEPS = Check(
    "continuous_steps",
    continuous_steps,
    draw=_draw_requests,
    cases=(
        Case("7 个请求，2 个槽位", (_LENGTHS, 2), "记下每个槽位什么时候空出来，下一个请求去最早空的槽位"),
        Case("7 个请求，3 个槽位", (_LENGTHS, 3), "全部做完的时刻是最晚空出来的槽位"),
        Case("最后来了一个长的", ([1, 1, 1, 9], 2), "不能重新安排已经在写的请求"),
        Case("槽位比请求多", ([3, 6], 8), "同时开始，最长的决定结束", edge=True),
        Case("只有 1 个槽位", (_LENGTHS, 1), "一个槽位就是一个接一个", edge=True),
    ),
    mistakes=(
        Mistake(
            "静态批处理", lambda n, s: static_steps(n, s), "这是静态批处理：空出来的槽位没有马上给下一个请求"
        ),
        Mistake(
            "平均分", lambda n, s: math.ceil(sum(n) / s), "请求不能切开分给两个槽位，平均分是达不到的下界"
        ),
        Mistake(
            "轮流分",
            lambda n, s: max(sum(n[i::s]) for i in range(s)),
            "不是轮流：下一个请求去最早空出来的槽位",
        ),
        Mistake(
            "先长后短",
            lambda n, s: continuous_steps(sorted(n, reverse=True), s),
            "按到达的次序，不能先排序：没有写完以前谁也不知道有多长",
        ),
        Mistake("取最早空的", _earliest_end, "最后一个请求写完才算完：取最晚，不是最早"),
        Mistake("总是第一个槽位", lambda n, s: sum(n), "几个槽位同时在写，不是一个接一个"),
    ),
)


def _draw_cache(rng: Random) -> tuple:
    return rng.randint(4, 200), rng.randint(2, 128), rng.randint(16, 512), rng.choice((1, 2, 4))


KV_BYTES_PER_TOKEN = Check(
    "kv_bytes_per_token",
    kv_bytes_per_token,
    draw=_draw_cache,
    cases=(
        Case("小诗：6 层，2 个 KV 头，64 维，float32", (6, 2, 64, 4), "每一层都要存键 (key) 和值 (value)"),
        Case(
            "SmolLM2-135M：30 层，3 个 KV 头，64 维，float32",
            (30, 3, 64, 4),
            "层数 × KV 头数 × 每头维数，再乘每个数的字节数",
        ),
        Case(
            "Qwen2.5-7B：28 层，4 个 KV 头，128 维，bfloat16", (28, 4, 128, 2), "bfloat16 的一个数是 2 字节"
        ),
    ),
    mistakes=(
        Mistake("忘了键和值是两份", lambda a, b, c, d: a * b * c * d, "键和值各存一份，要乘 2"),
        Mistake("忘了层数", lambda a, b, c, d: 2 * b * c * d, "每一层都有自己的键和值"),
        Mistake("忘了头数", lambda a, b, c, d: 2 * a * c * d, "每个 KV 头都有自己的键和值"),
        Mistake("忘了字节", lambda a, b, c, d: 2 * a * b * c, "这是数的个数，还要乘每个数的字节数"),
        Mistake("写死 2 字节", lambda a, b, c, d: 4 * a * b * c, "每个数几个字节要用传入的 dtype_bytes"),
        Mistake(
            "头维平方",
            lambda a, b, c, d: 2 * a * b * c * c * d,
            "一个词元在一个头里只存一个 head_dim 维的向量，不是矩阵",
        ),
        Mistake("当成位", lambda a, b, c, d: 2 * a * b * c * d * 8, "要的是字节，不是位 (bit)"),
    ),
)


def _draw_lengths(rng: Random) -> tuple:
    return rng.choices(range(1, 4000), k=rng.randint(4, 12)), rng.randint(3, 64)


BLOCKS_NEEDED = Check(
    "blocks_needed",
    blocks_needed,
    draw=_draw_lengths,
    cases=(
        Case("长度 5、28、16、17，每块 16", ([5, 28, 16, 17], 16), "每个请求各自向上取整：1 + 2 + 1 + 2"),
        Case("长度 40、40、40，每块 16", ([40, 40, 40], 16), "一块不能分给两个请求"),
        Case("每块 1 个位置", ([3, 4], 1), "每块一个位置时没有浪费", edge=True),
        Case("正好装满", ([32, 16], 16), "正好装满时不要多要一块", edge=True),
        Case("没有请求", ([], 16), "没有请求就不占块", edge=True),
    ),
    mistakes=(
        Mistake("先加起来再取整", lambda n, b: -(-sum(n) // b), "一块只属于一个请求：先各自取整，再相加"),
        Mistake("向下取整", lambda n, b: sum(x // b for x in n), "装不满的最后一块也要占，向上取整"),
        Mistake("总是多一块", lambda n, b: sum(x // b + 1 for x in n), "正好装满时不用多要一块"),
        Mistake(
            "四舍五入", lambda n, b: sum(round(x / b) for x in n), "只多出一个词元也要再占一块，不是四舍五入"
        ),
        Mistake(
            "按最长的预留",
            lambda n, b: len(n) * -(-max(n, default=0) // b),
            "这是按最长的请求预留；分页的好处正是各要各的",
        ),
        Mistake("返回位置数", lambda n, b: b * blocks_needed(n, b), "要的是块数，不是位置数"),
        Mistake("至少一块", lambda n, b: max(1, blocks_needed(n, b)), "没有请求时一块也不占"),
    ),
)
