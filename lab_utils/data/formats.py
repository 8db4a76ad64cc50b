"""The formats of training data: what a row of each looks like, and which foreign format a row resembles.

A conversation for supervised fine-tuning is
`{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, an optional `system` message
first; a preference pair is TRL's conversational `{"prompt": […], "chosen": […], "rejected": […]}`.
`validate` and `preference` check rows against them.
"""

from collections.abc import Mapping

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
OTHER_FIELDS = {
    "message": "字段名多半是 messages 写漏了 s",
    "conversations": "这像 ShareGPT 格式：conversations/from/value 改成 messages/role/content，human 改 user，gpt 改 assistant",
    "instruction": "这像 Alpaca 格式：instruction 与 input 拼成 user 的 content，output 作 assistant 的 content",
    "prompt": "prompt 作 user 的 content，回答作 assistant 的 content",
    "query": "query 作 user 的 content，response 作 assistant 的 content",
}
MESSAGES_SHAPE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
PAIR_FIELDS = ("prompt", "chosen", "rejected")
PAIR_SHAPE = (
    '{"prompt": [{"role": "user", "content": "…"}], "chosen": [{"role": "assistant", "content": "…"}], '
    '"rejected": [{"role": "assistant", "content": "…"}]}'
)
OTHER_PAIR_FIELDS = {
    "rejected_response": "这像 ms-swift 的格式：messages 最后一轮作 chosen，其余作 prompt，rejected_response 作 rejected",
    "question": "question 作 prompt 里 user 的 content",
    "instruction": "instruction 与 input 拼成 prompt 里 user 的 content",
    "response_j": "response_j 作 chosen，response_k 作 rejected",
}


def messages_remedy(row: Mapping) -> str:
    """How to turn `row`, which has no `messages`, into a conversation; by the format it resembles."""
    return _remedy(row, OTHER_FIELDS, MESSAGES_SHAPE)


def pair_remedy(row: Mapping) -> str:
    """How to turn `row`, which lacks one of `PAIR_FIELDS`, into a preference pair; by the format it resembles."""
    return _remedy(row, OTHER_PAIR_FIELDS, PAIR_SHAPE)


def _remedy(row: Mapping, known: Mapping[str, str], shape: str) -> str:
    return next((fix for name, fix in known.items() if name in row), f"写成 {shape}")
