"""Checks of a decoder, part by part: attention, feed-forward network, the whole, experts."""

from random import Random
from typing import NamedTuple

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.parameters.layers import EXACT

__all__ = [
    "ATTENTION_PARAMS",
    "CHATGLM3_6B",
    "DECODER_PARAMS",
    "FFN_PARAMS",
    "LLAMA_2_7B",
    "MOE_PARAMS",
    "QWEN2_5_7B",
    "QWEN3_0_6B",
    "attention_params",
    "decoder_params",
    "ffn_params",
    "moe_params",
]


def attention_params(d: int, heads: int, kv_heads: int, head_dim: int, qkv_bias: bool) -> int:
    """Parameters of Q, K, V and O with grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245)."""
    q, kv = heads * head_dim, kv_heads * head_dim
    return 2 * d * q + 2 * d * kv + (q + 2 * kv if qkv_bias else 0)


def ffn_params(d: int, ffn: int, gated: bool) -> int:
    """Parameters of a feed-forward network without biases; gated: SwiGLU (Shazeer 2020, arXiv:2002.05202)."""
    return (3 if gated else 2) * d * ffn


def decoder_params(
    vocab: int,
    d: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    qkv_bias: bool,
    qk_norm: bool,
    tied: bool,
) -> int:
    """Parameters of a decoder with SwiGLU and RMSNorm: embedding, layers, last norm, head unless tied."""
    norms = 2 * d + (2 * head_dim if qk_norm else 0)
    layer = attention_params(d, heads, kv_heads, head_dim, qkv_bias) + ffn_params(d, ffn, True) + norms
    return vocab * d * (1 if tied else 2) + layers * layer + d


def moe_params(d: int, ffn: int, experts: int, chosen: int) -> tuple[int, int]:
    """`(total, active)` parameters of a layer of SwiGLU experts and its router, a matrix (experts, d)."""
    return experts * (3 * d * ffn + d), chosen * 3 * d * ffn + experts * d


def _draw_heads(rng: Random) -> tuple[int, int, int]:
    """Heads, KV heads that divide them, and the width of a head, which RoPE wants to be even."""
    kv_heads = rng.randint(1, 16)
    return kv_heads * rng.randint(1, 8), kv_heads, 2 * rng.randint(8, 128)


def _draw_attention(rng: Random) -> tuple:
    return rng.randint(32, 8192), *_draw_heads(rng), rng.random() < 0.5


ATTENTION_PARAMS = Check(
    "attention_params",
    attention_params,
    draw=_draw_attention,
    cases=(
        Case("Llama-2-7B 一层", (4096, 32, 32, 128, False), "Q、K、V、O 四个矩阵"),
        Case("Qwen2.5-7B 一层", (3584, 28, 4, 128, True), "K、V 的头比 Q 少；偏置只在 Q、K、V 上"),
        Case("Qwen3-0.6B 一层", (1024, 16, 8, 128, False), "头的总宽度 heads × head_dim 可以不等于 d"),
        Case("只有一个 KV 头", (64, 4, 1, 16, True), "K 和 V 的输出宽度是 kv_heads × head_dim", edge=True),
    ),
    mistakes=(
        Mistake(
            "K、V 和 Q 一样大",
            lambda d, h, k, s, b: 4 * d * h * s + (3 * h * s if b else 0),
            "K 和 V 只有 kv_heads 个头，输出宽度是 kv_heads × head_dim",
        ),
        Mistake(
            "忘了 O",
            lambda d, h, k, s, b: d * h * s + 2 * d * k * s + ((h + 2 * k) * s if b else 0),
            "各个头的结果拼起来之后，还要经过一个输出矩阵 O",
        ),
        Mistake(
            "宽度当作 d",
            lambda d, h, k, s, b: 2 * d * d + 2 * d * k * (d // h) + (d + 2 * k * (d // h) if b else 0),
            "头的宽度用给出的 head_dim，不一定是 d ÷ heads",
        ),
        Mistake(
            "O 是方阵",
            lambda d, h, k, s, b: d * h * s + d * d + 2 * d * k * s + ((h + 2 * k) * s if b else 0),
            "O 的输入是拼起来的头，宽度是 heads × head_dim，输出才是 d",
        ),
        Mistake(
            "O 也有偏置",
            lambda d, h, k, s, b: attention_params(d, h, k, s, b) + (d if b else 0),
            "qkv_bias 只给 Q、K、V 加偏置，O 没有",
        ),
        Mistake(
            "忘了偏置",
            lambda d, h, k, s, b: attention_params(d, h, k, s, False),
            "qkv_bias 为 True 时，Q、K、V 的每个输出还有一个偏置",
        ),
        Mistake(
            "只有 Q 有偏置",
            lambda d, h, k, s, b: attention_params(d, h, k, s, False) + (h * s if b else 0),
            "K 和 V 也有偏置，个数是它们各自的输出宽度",
        ),
        Mistake(
            "K 和 V 只算一个",
            lambda d, h, k, s, b: 2 * d * h * s + d * k * s + ((h + k) * s if b else 0),
            "K 和 V 是两个矩阵",
        ),
    ),
    tolerance=EXACT,
)


def _draw_ffn(rng: Random) -> tuple:
    return rng.randint(16, 8192), rng.randint(16, 30_000), rng.random() < 0.5


FFN_PARAMS = Check(
    "ffn_params",
    ffn_params,
    draw=_draw_ffn,
    cases=(
        Case("4096 → 16384 → 4096", (4096, 16384, False), "放大一次，缩回一次"),
        Case("Llama-2-7B 一层，SwiGLU", (4096, 11008, True), "gate、up、down 三个矩阵"),
        Case("Qwen3-0.6B 一层，SwiGLU", (1024, 3072, True), "中间宽度不一定是 d 的四倍"),
        Case("很窄的一层", (8, 3, False), "中间也可以比 d 窄", edge=True),
    ),
    mistakes=(
        Mistake("总是两个", lambda d, f, g: 2 * d * f, "SwiGLU 多一个门 (gate)，一共三个矩阵"),
        Mistake("总是三个", lambda d, f, g: 3 * d * f, "不带门的前馈网络只有放大和缩回两个矩阵"),
        Mistake(
            "只算一个方向", lambda d, f, g: (2 if g else 1) * d * f, "放大之后还要缩回 d，缩回也是一个矩阵"
        ),
        Mistake("反了", lambda d, f, g: (2 if g else 3) * d * f, "带门 (gated) 的才是三个矩阵"),
        Mistake(
            "四倍宽", lambda d, f, g: (3 if g else 2) * d * 4 * d, "中间的宽度由 ffn 给出，不要自己假定是 4d"
        ),
        Mistake(
            "门是方阵",
            lambda d, f, g: 2 * d * f + (d * d if g else 0),
            "门的输出要和放大后的结果逐个相乘，所以它也是从 d 到 ffn",
        ),
        Mistake(
            "加了偏置",
            lambda d, f, g: ffn_params(d, f, g) + (2 * f + d if g else f + d),
            "这里的矩阵都没有偏置",
        ),
    ),
    tolerance=EXACT,
)


LLAMA_2_7B = (32000, 4096, 32, 32, 32, 128, 11008, False, False, False)
QWEN2_5_7B = (152064, 3584, 28, 28, 4, 128, 18944, True, False, False)
QWEN3_0_6B = (151936, 1024, 28, 16, 8, 128, 3072, False, True, True)
CHATGLM3_6B = (65024, 4096, 28, 32, 2, 128, 13696, True, False, False)


class _Sizes(NamedTuple):
    """The arguments of `decoder_params`."""

    vocab: int
    d: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    qkv_bias: bool
    qk_norm: bool
    tied: bool

    @property
    def qk_norms(self) -> int:
        """Scales of the two norms in a layer's Q and K; 0 where there are none."""
        return 2 * self.head_dim if self.qk_norm else 0


def _decoder(
    tables=lambda m: 1 if m.tied else 2,
    norms=lambda m: 2 * m.d + m.qk_norms,
    last_norm=lambda m: m.d,
    matrices=3,
):
    """`decoder_params` with one part counted otherwise, as a function of the sizes.

    tables: embedding and head, of vocab × d; norms: numbers in the norms of a layer; last_norm: numbers in the
    norm after all layers; matrices: of a feed-forward network.
    """

    def answer(*sizes):
        m = _Sizes(*sizes)
        attention = attention_params(m.d, m.heads, m.kv_heads, m.head_dim, m.qkv_bias)
        layer = attention + matrices * m.d * m.ffn + norms(m)
        return m.vocab * m.d * tables(m) + m.layers * layer + last_norm(m)

    return answer


def _counted_for(**other):
    """`decoder_params` of a model whose sizes are `other`."""
    return lambda *sizes: decoder_params(*_Sizes(*sizes)._replace(**other))


def _draw_decoder(rng: Random) -> tuple:
    """Sizes of which transformers makes a model too: d is a multiple of the heads."""
    heads, kv_heads, head_dim = _draw_heads(rng)
    vocab, d, layers = rng.randint(1000, 200_000), heads * rng.randint(8, 128), rng.randint(2, 60)
    flags = [rng.random() < 0.5 for _ in range(3)]
    return vocab, d, layers, heads, kv_heads, head_dim, rng.randint(64, 20_000), *flags


DECODER_PARAMS = Check(
    "decoder_params",
    decoder_params,
    draw=_draw_decoder,
    cases=(
        Case("Llama-2-7B", LLAMA_2_7B, "最普通的一种：没有偏置，没有 QK 归一化，输出头不共享"),
        Case("Qwen2.5-7B", QWEN2_5_7B, "Q、K、V 有偏置"),
        Case("Qwen3-0.6B", QWEN3_0_6B, "每层多两个长度为 head_dim 的归一化；输出头与嵌入共享"),
        Case("ChatGLM3-6B", CHATGLM3_6B, "只有 2 个 KV 头"),
        Case(
            "只有一层的小模型",
            (10, 8, 1, 2, 1, 4, 16, True, True, True),
            "层数是 1 时，哪些部分不随层数变？",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake(
            "总有输出头",
            _decoder(tables=lambda m: 2),
            "tied 为 True 时，输出头就是嵌入那张表，不再算一次",
        ),
        Mistake(
            "没有输出头", _decoder(tables=lambda m: 1), "tied 为 False 时，输出头是另一张 vocab × d 的表"
        ),
        Mistake(
            "共享弄反了",
            _decoder(tables=lambda m: 2 if m.tied else 1),
            "共享 (tied) 是省掉一张表，不是多出一张",
        ),
        Mistake(
            "忘了最后的归一化",
            _decoder(last_norm=lambda m: 0),
            "总数正好少了 d：所有层之后、输出头之前，还有一个归一化",
        ),
        Mistake(
            "每层一个归一化",
            _decoder(norms=lambda m: m.d + m.qk_norms),
            "每层有两个归一化：注意力之前一个，前馈网络之前一个",
        ),
        Mistake(
            "没有归一化", _decoder(norms=lambda m: 0, last_norm=lambda m: 0), "归一化也有参数：每一处 d 个"
        ),
        Mistake(
            "归一化有偏置",
            _decoder(norms=lambda m: 4 * m.d + m.qk_norms, last_norm=lambda m: 2 * m.d),
            "这里是 RMSNorm，每处只有 d 个缩放，没有偏置；LayerNorm 才是 2d",
        ),
        Mistake(
            "忘了 QK 归一化",
            _decoder(norms=lambda m: 2 * m.d),
            "qk_norm 为 True 时，每层的 Q 和 K 各有一个归一化",
        ),
        Mistake(
            "QK 归一化只有一个",
            _decoder(norms=lambda m: 2 * m.d + m.qk_norms // 2),
            "Q 和 K 各有一个归一化，是两个",
        ),
        Mistake(
            "QK 归一化按头数",
            _decoder(norms=lambda m: 2 * m.d + (m.heads + m.kv_heads) * m.qk_norms // 2),
            "QK 归一化的 head_dim 个缩放由所有的头共用，不乘头数",
        ),
        Mistake("前馈网络两个矩阵", _decoder(matrices=2), "这四个模型的前馈网络都是 SwiGLU"),
        Mistake("忘了乘层数", _counted_for(layers=1), "一层的参数算对了，还要乘层数"),
        Mistake(
            "嵌入也乘层数",
            lambda *sizes: sizes[2] * decoder_params(*sizes),
            "嵌入、最后的归一化和输出头只有一份，不乘层数；检查括号",
        ),
        Mistake("没传偏置", _counted_for(qkv_bias=False), "qkv_bias 要传给注意力那一部分"),
    ),
    tolerance=EXACT,
)


def _draw_experts(rng: Random) -> tuple:
    experts = rng.randint(4, 64)
    return rng.randint(64, 4096), rng.randint(64, 9000), experts, rng.randint(2, experts - 1)


MOE_PARAMS = Check(
    "moe_params",
    moe_params,
    draw=_draw_experts,
    cases=(
        Case("Mixtral-8x7B 一层", (4096, 14336, 8, 2), "总数看所有的专家，激活只看选中的"),
        Case("Qwen3-30B-A3B 一层", (2048, 768, 128, 8), "路由器是 experts × d 的矩阵"),
        Case("每次选一个", (32, 48, 4, 1), "只选一个时，路由器仍然整个用到"),
        Case("全部选中", (16, 24, 4, 4), "全选时两个数相等", edge=True),
    ),
    mistakes=(
        Mistake(
            "没有路由器",
            lambda d, f, e, c: (e * 3 * d * f, c * 3 * d * f),
            "路由器 (router) 也有参数：给每个专家打分要一个 experts × d 的矩阵",
        ),
        Mistake(
            "路由器按选中的算",
            lambda d, f, e, c: (e * (3 * d * f + d), c * (3 * d * f + d)),
            "要先给所有专家打分才能选，所以路由器整个都用到",
        ),
        Mistake(
            "激活里没有路由器",
            lambda d, f, e, c: (e * (3 * d * f + d), c * 3 * d * f),
            "每个词元都要经过路由器，激活的参数里也有它",
        ),
        Mistake("反了", lambda d, f, e, c: moe_params(d, f, e, c)[::-1], "顺序是 (总数, 激活)"),
        Mistake(
            "两个矩阵",
            lambda d, f, e, c: (e * (2 * d * f + d), c * 2 * d * f + e * d),
            "每个专家是一个 SwiGLU 前馈网络",
        ),
        Mistake("只有总数", lambda d, f, e, c: e * (3 * d * f + d), "返回两个数：(总数, 激活)"),
        Mistake(
            "激活只有一个专家",
            lambda d, f, e, c: (e * (3 * d * f + d), 3 * d * f + e * d),
            "每个词元选 chosen 个专家，不一定是一个",
        ),
    ),
    tolerance=EXACT,
)
