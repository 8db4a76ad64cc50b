"""Checks of a client: the request, the stream, the length that vLLM reads."""

import json
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.serving.clients import length_tokens, request_body, stream_text

__all__ = ["LENGTH_TOKENS", "REQUEST_BODY", "STREAM_TEXT"]


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


def _with_thinking(fields):
    """A body to which `fields(thinking)` is added unless `thinking` is None."""
    return lambda m, t, n, thinking: _body(m, t, n) | ({} if thinking is None else fields(thinking))


def _inside_the_message(m, t, n, thinking):
    body = _body(m, t, n)
    if thinking is not None:
        body["messages"][0]["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def _draw_request(rng: Random) -> tuple:
    model, text = rng.choice(("poet", "qwen3", "judge")), f"题目 {rng.randrange(10**6)}"
    return model, text, rng.randint(8, 4096), rng.choice((None, True, False))


REQUEST_BODY = Check(
    "request_body",
    request_body,
    draw=_draw_request,
    cases=(
        Case("不提思考", ("poet", "写一首五言绝句。", 64, None), "thinking 是 None 时，请求里根本不提它"),
        Case(
            "关掉思考",
            ("qwen3", "1+1=?", 256, False),
            "模板变量放在 chat_template_kwargs 里，它和 messages 并列",
        ),
        Case("打开思考", ("qwen3", "1+1=?", 256, True), "True 和 False 都要传过去"),
    ),
    mistakes=(
        Mistake(
            "放在最外层",
            _with_thinking(lambda k: {"enable_thinking": k}),
            "enable_thinking 是对话模板的变量，不是请求的字段："
            "要放在 chat_template_kwargs 里，否则没有人理它",
        ),
        Mistake(
            "写了 extra_body",
            _with_thinking(lambda k: {"extra_body": {"chat_template_kwargs": {"enable_thinking": k}}}),
            "extra_body 是 openai 库的参数名，它会把里面的内容摊到请求的最外层；请求本身没有这个字段",
        ),
        Mistake("False 被当成没有", _unless_false, "False 也是一个值，不能用 if thinking 判断；要和 None 比"),
        Mistake("总是写上", _always, "thinking 是 None 时不要写 chat_template_kwargs"),
        Mistake(
            "写成文字",
            _with_thinking(lambda k: {"chat_template_kwargs": {"enable_thinking": str(k).lower()}}),
            "要的是布尔值 True/False，不是文字 'false'：非空的文字在模板里都算真",
        ),
        Mistake(
            "messages 不是列表",
            lambda m, t, n, k: request_body(m, t, n, k) | {"messages": {"role": "user", "content": t}},
            "messages 是列表，里面每条是一个 {role, content}",
        ),
        Mistake("放进消息里", _inside_the_message, "chat_template_kwargs 和 messages 并列，不在某条消息里面"),
    ),
)


def _line(event: dict, ascii_only: bool = False) -> str:
    """The line of a stream that carries this event."""
    return "data: " + json.dumps(event, ensure_ascii=ascii_only)


def _event(**delta) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return _line({"object": "chat.completion.chunk", "choices": [choice]})


_USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30}}'


def _reader(text_of):
    """A reader that knows the empty line and the end, and takes the text by `text_of(choices)`."""

    def answer(line):
        if line == "data: [DONE]":
            return None
        return text_of(json.loads(line.removeprefix("data: "))["choices"]) if line else ""

    return answer


def _done_as_json(line):
    if not line.startswith("data:"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _draw_event(rng: Random) -> tuple:
    """One event as servers send them, each with an id of its own.

    The empty line and `data: [DONE]` have one form alone; they are visible and can't be drawn again.
    """
    event: dict = {"id": f"chatcmpl-{rng.getrandbits(64):016x}", "object": "chat.completion.chunk"}
    pieces = ("月", "春眠", " ", "\n", "a b", '"引号"', "{x}", "[DONE]", "data: ", "\\", "，", "。", "7")
    content = "".join(rng.choices(pieces, k=rng.randint(1, 4)))
    kind = rng.choice(("text",) * 6 + ("role", "null", "last", "usage"))
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
        Case(
            "一段文字", (_event(content="春眠"),), "去掉 data: 以后是 JSON，文字在 choices[0].delta.content"
        ),
        Case("文字是换行", (_event(content="\n"),), "换行也是文字，不要去掉它"),
        Case("结束标记", ("data: [DONE]",), "[DONE] 不是 JSON，见到它返回 None"),
        Case("空行", ("",), "事件之间隔着空行，里面没有文字，返回空字符串", edge=True),
        Case("只有角色", (_event(role="assistant"),), "第一个事件常常只有 role，没有 content", edge=True),
        Case("content 是 null", (_event(content=None),), "content 可能是 null，返回空字符串", edge=True),
        Case("只有用量", (_USAGE,), "最后的用量 (usage) 事件里 choices 是空列表", edge=True),
    ),
    mistakes=(
        Mistake("把 [DONE] 当 JSON", _done_as_json, "最后一行 data: [DONE] 不是 JSON，先判断它"),
        Mistake(
            "找 message",
            _reader(lambda choices: choices[0]["message"]["content"]),
            "流式回答里没有 message，每次只来一小段 delta",
        ),
        Mistake(
            "没有 content 就出错",
            _reader(lambda choices: (choices[0]["delta"]["content"] or "") if choices else ""),
            "有的 delta 里没有 content（例如只有 role），用 .get 取",
        ),
        Mistake(
            "没有想到空的 choices",
            _reader(lambda choices: choices[0]["delta"].get("content") or ""),
            "用量 (usage) 事件的 choices 是空列表，取第 0 个会出错",
        ),
        Mistake(
            "去掉了空白",
            lambda line: text.strip() if (text := stream_text(line)) else text,
            "不要 strip 文字：换行和空格也是回答的一部分",
        ),
        Mistake(
            "返回 None 字样",
            _reader(lambda choices: choices[0]["delta"].get("content", "") if choices else ""),
            "content 是 null 时要返回空字符串，不是 None：None 表示流结束了",
        ),
        Mistake(
            "结束返回空字符串",
            lambda line: stream_text(line) or "",
            "见到 [DONE] 要返回 None，好让调用的人知道该停了",
        ),
        Mistake(
            "空行当作结束",
            lambda line: stream_text(line) if line else None,
            "空行只是事件之间的间隔，不是流的结束",
        ),
    ),
)


def _length(k: int, capital: int):
    """`length_tokens` with other values of the two letters."""

    def answer(text: str) -> int:
        units = {"k": k, "K": capital}
        return int(float(text.rstrip("kK")) * units.get(text[-1], 1))

    return answer


def _draw_length(rng: Random) -> tuple:
    """Whole numbers, and decimals that are exact in binary; on others right formulas differ by rounding."""
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
        Mistake(
            "先取整",
            lambda t: int(float(t.rstrip("kK"))) * {"k": 1000, "K": 1024}.get(t[-1], 1),
            "25.6k 先取整就成了 25k：先乘，再取整",
        ),
        Mistake(
            "只认整数",
            lambda t: int(t.rstrip("kK")) * {"k": 1000, "K": 1024}.get(t[-1], 1),
            "25.6k 这样的小数也要认：用 float",
        ),
        Mistake("返回文字", lambda t: str(length_tokens(t)), "要返回整数 (int)，不是文字"),
        Mistake(
            "忘了没有字母的",
            lambda t: int(float(t[:-1]) * {"k": 1000, "K": 1024}[t[-1]]),
            "4096 没有字母，最后一个字符是数字",
        ),
    ),
)
