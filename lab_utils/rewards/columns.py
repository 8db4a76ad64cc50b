"""What a reward function is given: completions in any shape, columns of the data set as lists."""

from collections.abc import Sequence

from lab_utils.errors import InvalidValue


def text_of(completion) -> str:
    """The text of one completion; "" for anything that holds none.

    A string is itself. Of a conversation `[{"role": …, "content": …}]` it is the content of the
    last assistant message; content in parts `[{"type": "text", "text": …}]` is joined.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list):
        return ""
    for message in reversed(completion):
        if isinstance(message, dict) and message.get("role") == "assistant":
            return _content(message.get("content"))
    return ""


def rows(completions: Sequence, **columns: Sequence | None) -> list[tuple]:
    """One tuple `(text, value, …)` per completion, values in the order of `columns`.

    TRL and ms-swift pass every column of the data set as a list as long as `completions`.
    Raises InvalidValue, naming the column, when it wasn't passed (None), isn't a list, or has
    another length; and when `completions` is one string instead of a list.
    """
    if not isinstance(completions, (list, tuple)):
        raise InvalidValue(
            f"completions 应为一列回答 (list)，收到 {type(completions).__name__}",
            "只有一个回答也要放进列表：[text]",
        )
    for name, values in columns.items():
        if values is None:
            raise InvalidValue(
                f"缺少 {name} (missing column)：这个奖励函数要用数据集 (dataset) 的 {name} 列",
                f"给每一行数据加上字段 {name}；直接调用时传 {name}=[…]",
            )
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise InvalidValue(
                f"{name} 应为一列值 (list)，每个回答一个，收到 {type(values).__name__}",
                f"写成 {name}=[…]，长度与 completions 相同",
            )
        if len(values) != len(completions):
            raise InvalidValue(
                f"{name} 有 {len(values)} 个值，completions 有 {len(completions)} 个，应一一对应",
                f"检查数据集的 {name} 列：同一个提示的每个回答都要重复一次它的值",
            )
    return list(zip(map(text_of, completions), *columns.values(), strict=True))


def _content(content) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
