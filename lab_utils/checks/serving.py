"""Checks of lab 11: what a client sends and gets, what is measured, and why vLLM is fast."""

import itertools
import json
import math
import re
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.serving.clients import length_tokens, request_body, stream_text


def first_and_gap(sent: float, pieces: list[float]) -> tuple[float, float]:
    """`(TTFT, mean inter-token latency)` in seconds of one request; one piece has no gap: 0.0."""
    gaps = [after - before for before, after in itertools.pairwise(pieces)]
    return pieces[0] - sent, sum(gaps) / len(gaps) if gaps else 0.0


def percentile(values: list[float], q: float) -> float:
    """The smallest value that at least `q` per cent of `values` don't exceed (nearest rank)."""
    return sorted(values)[max(1, math.ceil(q / 100 * len(values))) - 1]


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
    """Bytes of KV cache a token: a key and a value, in each layer, for each KV head."""
    return 2 * layers * kv_heads * head_dim * dtype_bytes


def blocks_needed(lengths: list[int], block_size: int) -> int:
    """Blocks of `block_size` places that requests of these lengths take; no block is shared."""
    return sum(-(-length // block_size) for length in lengths)


def _body(model, text, max_tokens, **other):
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        **other,
    }


def _always(m, t, n, thinking):
    return _body(m, t, n, chat_template_kwargs={"enable_thinking": bool(thinking)})


def _unless_false(m, t, n, thinking):
    return request_body(m, t, n, thinking or None)


def _draw_request(rng: Random) -> tuple:
    model, text = rng.choice(("poet", "qwen3", "judge")), f"题目 {rng.randrange(10**6)}"
    return model, text, rng.randint(8, 4096), rng.choice((None, True, False))


REQUEST_BODY = Check(
    "request_body",
    request_body,
    draw=_draw_request,
    cases=(
        Case("不提思考", ("poet", "写一首五言绝句。", 64, None), "thinking 是 None 时，请求里根本不提它"),
        Case("关掉思考", ("qwen3", "1+1=?", 256, False), "模板变量放在 chat_template_kwargs 里，它和 messages 并列"),
        Case("打开思考", ("qwen3", "1+1=?", 256, True), "True 和 False 都要传过去"),
    ),
    mistakes=(
        Mistake("放在最外层", lambda m, t, n, k: _body(m, t, n) if k is None else _body(m, t, n, enable_thinking=k), "enable_thinking 是对话模板的变量，不是请求的字段：要放在 chat_template_kwargs 里，否则没有人理它"),
        Mistake("写了 extra_body", lambda m, t, n, k: _body(m, t, n) if k is None else _body(m, t, n, extra_body={"chat_template_kwargs": {"enable_thinking": k}}), "extra_body 是 openai 库的参数名，它会把里面的内容摊到请求的最外层；请求本身没有这个字段"),
        Mistake("False 被当成没有", _unless_false, "False 也是一个值，不能用 if thinking 判断；要和 None 比"),
        Mistake("总是写上", _always, "thinking 是 None 时不要写 chat_template_kwargs"),
        Mistake("写成文字", lambda m, t, n, k: _body(m, t, n) if k is None else _body(m, t, n, chat_template_kwargs={"enable_thinking": str(k).lower()}), "要的是布尔值 True/False，不是文字 'false'：非空的文字在模板里都算真"),
        Mistake("messages 不是列表", lambda m, t, n, k: request_body(m, t, n, k) | {"messages": {"role": "user", "content": t}}, "messages 是列表，里面每条是一个 {role, content}"),
        Mistake("放进消息里", lambda m, t, n, k: request_body(m, t, n, None) if k is None else _body(m, t, n) | {"messages": [{"role": "user", "content": t, "chat_template_kwargs": {"enable_thinking": k}}]}, "chat_template_kwargs 和 messages 并列，不在某条消息里面"),
    ),
)  # fmt: skip


def _line(event: dict, ascii_only: bool = False) -> str:
    """The line of a stream that carries this event."""
    return "data: " + json.dumps(event, ensure_ascii=ascii_only)


def _event(**delta) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return _line({"object": "chat.completion.chunk", "choices": [choice]})


_USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30}}'


def _data(line: str) -> dict:
    return json.loads(line.removeprefix("data: "))


def _draw_event(rng: Random) -> tuple:
    """One event as servers send them, each with an id of its own.

    The empty line and `data: [DONE]` have one form alone; they are visible and can't be drawn again.
    """
    event: dict = {"id": f"chatcmpl-{rng.getrandbits(64):016x}", "object": "chat.completion.chunk"}
    pieces = ("月", "春眠", " ", "\n", "a b", '"引号"', "{x}", "[DONE]", "data: ", "\\", "，", "。", "7")
    content = "".join(rng.choices(pieces, k=rng.randint(1, 4)))
    kind = rng.choice(("text", "text", "text", "text", "role", "null", "last", "usage"))
    if kind == "usage":
        tokens = {"prompt_tokens": rng.randint(1, 999), "completion_tokens": rng.randint(1, 999)}
        return (_line(event | {"choices": [], "usage": tokens}),)
    delta = {"role": {"role": "assistant"}, "null": {"content": None}, "last": {"content": ""}}
    reason = rng.choice(("stop", "length")) if kind == "last" else None
    choice = {"index": 0, "delta": delta.get(kind, {"content": content}), "finish_reason": reason}
    return (_line(event | {"choices": [choice]}, ascii_only=rng.random() < 0.5),)


STREAM_TEXT = Check(
    "stream_text",
    stream_text,
    draw=_draw_event,
    cases=(
        Case("一段文字", (_event(content="春眠"),), "去掉 data: 以后是 JSON，文字在 choices[0].delta.content"),
        Case("文字是换行", (_event(content="\n"),), "换行也是文字，不要去掉它"),
        Case("结束标记", ("data: [DONE]",), "[DONE] 不是 JSON，见到它返回 None"),
        Case("空行", ("",), "事件之间隔着空行，里面没有文字，返回空字符串", edge=True),
        Case("只有角色", (_event(role="assistant"),), "第一个事件常常只有 role，没有 content", edge=True),
        Case("content 是 null", (_event(content=None),), "content 可能是 null，返回空字符串", edge=True),
        Case("只有用量", (_USAGE,), "最后的用量 (usage) 事件里 choices 是空列表", edge=True),
    ),
    mistakes=(
        Mistake("把 [DONE] 当 JSON", lambda line: "" if not line.startswith("data:") else (lambda c: (c[0]["delta"].get("content") or "") if c else "")(_data(line)["choices"]), "最后一行 data: [DONE] 不是 JSON，先判断它"),
        Mistake("找 message", lambda line: None if line == "data: [DONE]" else "" if not line else _data(line)["choices"][0]["message"]["content"], "流式回答里没有 message，每次只来一小段 delta"),
        Mistake("没有 content 就出错", lambda line: None if line == "data: [DONE]" else "" if not line else (lambda c: (c[0]["delta"]["content"] or "") if c else "")(_data(line)["choices"]), "有的 delta 里没有 content（例如只有 role），用 .get 取"),
        Mistake("没有想到空的 choices", lambda line: None if line == "data: [DONE]" else "" if not line else (_data(line)["choices"][0]["delta"].get("content") or ""), "用量 (usage) 事件的 choices 是空列表，取第 0 个会出错"),
        Mistake("去掉了空白", lambda line: text.strip() if (text := stream_text(line)) else text, "不要 strip 文字：换行和空格也是回答的一部分"),
        Mistake("返回 None 字样", lambda line: None if line == "data: [DONE]" else "" if not line else (lambda c: c[0]["delta"].get("content", "") if c else "")(_data(line)["choices"]), "content 是 null 时要返回空字符串，不是 None：None 表示流结束了"),
        Mistake("结束返回空字符串", lambda line: stream_text(line) or "", "见到 [DONE] 要返回 None，好让调用的人知道该停了"),
        Mistake("空行当作结束", lambda line: stream_text(line) if line else None, "空行只是事件之间的间隔，不是流的结束"),
    ),
)  # fmt: skip


def _length(k: int, capital: int):
    def wrong(text: str) -> int:
        number, letter = re.fullmatch(r"([\d.]+)(\w?)", text).groups()
        return int(float(number) * {"k": k, "K": capital, "": 1}[letter])

    return wrong


def _draw_length(rng: Random) -> tuple:
    """Whole numbers, and such decimals as are exact in binary: 0.1k may come out as 99 by another right formula."""
    number = rng.randint(1, 10**7)
    eighths = rng.choice((".5", ".25", ".75", ".125", ".375", ".625", ".875"))
    return (rng.choice((f"{number}k", f"{number}K", f"{number}", f"{number}{eighths}k")),)


LENGTH_TOKENS = Check(
    "length_tokens",
    length_tokens,
    draw=_draw_length,
    cases=(
        Case("32k", ("32k",), "小写的 k 是十进制的千：1000"),
        Case("32K", ("32K",), "大写的 K 是二进制的千：1024"),
        Case("4096", ("4096",), "没有字母就是它自己"),
        Case("25.6k", ("25.6k",), "小写时可以有小数：25.6 × 1000", edge=True),
        Case("0.5k", ("0.5k",), "先按小数乘，最后再取整", edge=True),
    ),
    mistakes=(
        Mistake("都是 1024", _length(1024, 1024), "小写的 k 是 1000，只有大写的 K 才是 1024"),
        Mistake("都是 1000", _length(1000, 1000), "大写的 K 是 1024，只有小写的 k 才是 1000"),
        Mistake("大小写反了", _length(1024, 1000), "反了：小写 k = 1000，大写 K = 1024"),
        Mistake("先取整", lambda t: int(float(t.rstrip("kK"))) * {"k": 1000, "K": 1024}.get(t[-1], 1), "25.6k 先取整就成了 25k：先乘，再取整"),
        Mistake("只认整数", lambda t: int(t.rstrip("kK")) * {"k": 1000, "K": 1024}.get(t[-1], 1), "25.6k 这样的小数也要认：用 float"),
        Mistake("返回文字", lambda t: str(length_tokens(t)), "要返回整数 (int)，不是文字"),
        Mistake("忘了没有字母的", lambda t: int(float(t[:-1]) * {"k": 1000, "K": 1024}[t[-1]]), "4096 没有字母，最后一个字符是数字"),
    ),
)  # fmt: skip


def _draw_times(rng: Random) -> tuple:
    """Times in sixteenths of a second, whose differences are exact."""
    times = [rng.randint(0, 4000) / 8]
    for _ in range(rng.randint(3, 9)):
        times.append(times[-1] + rng.randint(1, 40) / 16)
    return times[0], times[1:]


FIRST_AND_GAP = Check(
    "first_and_gap",
    first_and_gap,
    draw=_draw_times,
    cases=(
        Case("0.5 秒发出，三段文字", (0.5, [1.0, 1.25, 1.75]), "TTFT 从发出请求算起；间隔是相邻两段到达时刻之差的平均"),
        Case("五段，快慢不一", (2.0, [2.25, 2.5, 2.5625, 3.5, 4.0]), "n 段文字只有 n-1 个间隔"),
        Case("只有一段", (1.0, [4.0]), "只有一段时没有间隔，返回 0.0，不要除以零", edge=True),
    ),
    tolerance=1e-9,
    mistakes=(
        Mistake("TTFT 从 0 算起", lambda s, p: (p[0], first_and_gap(s, p)[1]), "首词元延迟是从这个请求发出的时刻 sent 算起的"),
        Mistake("除以段数", lambda s, p: (p[0] - s, (p[-1] - p[0]) / len(p)), "n 段文字之间只有 n-1 个间隔"),
        Mistake("把首段也算成间隔", lambda s, p: (p[0] - s, (p[-1] - s) / len(p)), "等第一段文字的时间属于 TTFT，不算间隔"),
        Mistake("总时间当作 TTFT", lambda s, p: (p[-1] - s, first_and_gap(s, p)[1]), "这是整个请求的用时；TTFT 只到第一段文字"),
        Mistake("次序反了", lambda s, p: first_and_gap(s, p)[::-1], "先返回 TTFT，再返回平均间隔"),
        Mistake("只有一段时除以零", lambda s, p: (p[0] - s, (p[-1] - p[0]) / (len(p) - 1)), "只有一段文字时间隔个数是 0，要单独处理"),
        Mistake("最大间隔", lambda s, p: (p[0] - s, max([b - a for a, b in itertools.pairwise(p)], default=0.0)), "要的是平均间隔，不是最大的那一个"),
    ),
)  # fmt: skip

_TEN = [70.0, 10.0, 40.0, 100.0, 20.0, 60.0, 90.0, 30.0, 80.0, 50.0]


def _draw_latencies(rng: Random) -> tuple:
    values = [rng.randint(1, 10**6) / 8 for _ in range(rng.choice((9, 13, 21, 33)))]
    return values, rng.choice((25, 50, 90, 95, 99))


PERCENTILE = Check(
    "percentile",
    percentile,
    draw=_draw_latencies,
    cases=(
        Case("10 个数的 p50", (_TEN, 50), "先排序；至少一半的数不超过它"),
        Case("10 个数的 p95", (_TEN, 95), "第 ceil(0.95 × 10) 个"),
        Case("7 个数的 p90", ([5.0, 1.0, 4.0, 2.0, 7.0, 3.0, 6.0], 90), "名次 q/100 × n 不是整数时向上取整"),
        Case("p100", (_TEN, 100), "p100 是最大的一个", edge=True),
        Case("只有一个数", ([3.0], 50), "只有一个数时，哪个百分位都是它", edge=True),
    ),
    tolerance=1e-9,
    mistakes=(
        Mistake("没有排序", lambda v, q: v[math.ceil(q / 100 * len(v)) - 1], "名次是从小到大排好以后的名次，先排序"),
        Mistake("没有减 1", lambda v, q: ([*sorted(v), max(v)])[math.ceil(q / 100 * len(v))], "第 k 个数的下标是 k - 1"),
        Mistake("向下取整", lambda v, q: sorted(v)[max(1, int(q / 100 * len(v))) - 1], "名次要向上取整，否则盖不住 q% 的数"),
        Mistake("从大到小", lambda v, q: sorted(v, reverse=True)[math.ceil(q / 100 * len(v)) - 1], "从小到大排序：p95 应当是很大的数"),
        Mistake("最大值的 q%", lambda v, q: max(v) * q / 100, "百分位是一个名次，不是最大值的百分之几"),
        Mistake("平均数", lambda v, q: sum(v) / len(v), "平均数会被少数极慢的请求带偏，也看不出它们；这里要按名次取"),
        Mistake("q 没有除以 100", lambda v, q: sorted(v)[math.ceil(q * len(v)) - 1], "q 是百分数，要除以 100"),
    ),
)  # fmt: skip

_LENGTHS = [5, 2, 9, 3, 1, 8, 4]


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
        Mistake("静态批处理", lambda n, s: static_steps(n, s), "这是静态批处理：空出来的槽位没有马上给下一个请求"),
        Mistake("平均分", lambda n, s: math.ceil(sum(n) / s), "请求不能切开分给两个槽位，平均分是达不到的下界"),
        Mistake("轮流分", lambda n, s: max(sum(n[i::s]) for i in range(s)), "不是轮流：下一个请求去最早空出来的槽位"),
        Mistake("先长后短", lambda n, s: continuous_steps(sorted(n, reverse=True), s), "按到达的次序，不能先排序：没有写完以前谁也不知道有多长"),
        Mistake("取最早空的", lambda n, s: (lambda f: [f.__setitem__(f.index(min(f)), min(f) + x) for x in n] and min(f))([0] * s), "最后一个请求写完才算完：取最晚，不是最早"),
        Mistake("总是第一个槽位", lambda n, s: sum(n), "几个槽位同时在写，不是一个接一个"),
    ),
)  # fmt: skip


def _draw_cache(rng: Random) -> tuple:
    return rng.randint(4, 200), rng.randint(2, 128), rng.randint(16, 512), rng.choice((1, 2, 4))


KV_BYTES_PER_TOKEN = Check(
    "kv_bytes_per_token",
    kv_bytes_per_token,
    draw=_draw_cache,
    cases=(
        Case("小诗：6 层，2 个 KV 头，64 维，float32", (6, 2, 64, 4), "每一层都要存键 (key) 和值 (value)"),
        Case("SmolLM2-135M：30 层，3 个 KV 头，64 维，float32", (30, 3, 64, 4), "层数 × KV 头数 × 每头维数，再乘每个数的字节数"),
        Case("Qwen2.5-7B：28 层，4 个 KV 头，128 维，bfloat16", (28, 4, 128, 2), "bfloat16 的一个数是 2 字节"),
    ),
    mistakes=(
        Mistake("忘了键和值是两份", lambda a, b, c, d: a * b * c * d, "键和值各存一份，要乘 2"),
        Mistake("忘了层数", lambda a, b, c, d: 2 * b * c * d, "每一层都有自己的键和值"),
        Mistake("忘了头数", lambda a, b, c, d: 2 * a * c * d, "每个 KV 头都有自己的键和值"),
        Mistake("忘了字节", lambda a, b, c, d: 2 * a * b * c, "这是数的个数，还要乘每个数的字节数"),
        Mistake("写死 2 字节", lambda a, b, c, d: 4 * a * b * c, "每个数几个字节要用传入的 dtype_bytes"),
        Mistake("头维平方", lambda a, b, c, d: 2 * a * b * c * c * d, "一个词元在一个头里只存一个 head_dim 维的向量，不是矩阵"),
        Mistake("当成位", lambda a, b, c, d: 2 * a * b * c * d * 8, "要的是字节，不是位 (bit)"),
    ),
)  # fmt: skip


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
        Mistake("四舍五入", lambda n, b: sum(round(x / b) for x in n), "只多出一个词元也要再占一块，不是四舍五入"),
        Mistake("按最长的预留", lambda n, b: len(n) * -(-max(n, default=0) // b), "这是按最长的请求预留；分页的好处正是各要各的"),
        Mistake("返回位置数", lambda n, b: b * blocks_needed(n, b), "要的是块数，不是位置数"),
        Mistake("至少一块", lambda n, b: max(1, blocks_needed(n, b)), "没有请求时一块也不占"),
    ),
)  # fmt: skip
