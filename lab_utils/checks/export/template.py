"""Checks of the template that a conversation is written in."""

from random import Random

from lab_utils.checks.frame import Case, Check, Mistake

__all__ = ["CHATML", "chatml"]


def chatml(messages: list[dict]) -> str:
    """A conversation in ChatML, up to where the assistant begins."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


_USER = {"role": "user", "content": "写一首五言绝句，题目：秋夜"}
_ANSWER = {"role": "assistant", "content": "秋夜月初上，\n独坐思悠悠。"}


def _turns(messages, turn, end="<|im_start|>assistant\n", start=""):
    return start + "".join(turn.format(role=m["role"], content=m["content"]) for m in messages) + end


_TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"


def _with_default_system(messages):
    if messages[0]["role"] == "system":
        return chatml(messages)
    return _turns(messages, _TURN, start="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


def _draw_conversation(rng: Random) -> tuple:
    """Turns that begin and end with the user, after a system prompt or none."""
    words = ("你好", "写一首诗", "1+1=?", "第一行\n第二行", " 空格 ", "{秋夜}", "《松》", '"引号"')
    roles = ["system"] * rng.randint(0, 1) + ["user", "assistant"] * rng.randint(0, 2) + ["user"]
    contents = [f"{rng.choice(words)}{rng.randrange(10**9)}{rng.choice(words)}" for _ in roles]
    return ([{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)],)


CHATML = Check(
    "chatml",
    chatml,
    draw=_draw_conversation,
    cases=(
        Case("一句提问", ([_USER],), "每一轮：<|im_start|>角色、换行、内容、<|im_end|>、换行"),
        Case(
            "有系统提示", ([{"role": "system", "content": "你是诗人。"}, _USER],), "system 和别的角色写法相同"
        ),
        Case("多轮对话", ([_USER, _ANSWER, _USER],), "助手说过的话也是一轮；内容里的换行照抄"),
        Case("内容首尾有空格", ([{"role": "user", "content": " 一 "}],), "内容一个字符都不能动", edge=True),
    ),
    mistakes=(
        Mistake(
            "没有开头的 assistant",
            lambda m: _turns(m, _TURN, ""),
            "末尾要写出 <|im_start|>assistant 和换行，模型才知道轮到它回答",
        ),
        Mistake(
            "assistant 后没有换行",
            lambda m: _turns(m, _TURN, "<|im_start|>assistant"),
            "角色名后面的换行也是模板的一部分，少了它第一个词元就变了",
        ),
        Mistake(
            "没有结束符", lambda m: _turns(m, "<|im_start|>{role}\n{content}\n"), "每一轮要用 <|im_end|> 结束"
        ),
        Mistake(
            "结束符后没有换行",
            lambda m: _turns(m, "<|im_start|>{role}\n{content}<|im_end|>"),
            "<|im_end|> 后面还有一个换行",
        ),
        Mistake(
            "角色后用空格",
            lambda m: _turns(m, "<|im_start|>{role} {content}<|im_end|>\n"),
            "角色和内容之间是换行，不是空格",
        ),
        Mistake(
            "去掉了空白",
            lambda m: _turns([x | {"content": x["content"].strip()} for x in m], _TURN),
            "不要 strip：内容原样照抄，词元才会一样",
        ),
        Mistake("加了默认的系统提示", _with_default_system, "训练时没有的系统提示，部署时也不能有"),
        Mistake(
            "结束了助手的一轮", lambda m: chatml(m) + "<|im_end|>\n", "助手的一轮要留着不结束，让模型接着写"
        ),
    ),
)
