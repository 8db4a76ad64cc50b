"""Checks of labels: what counts in the loss, and rows in which nothing does."""

from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.data.loss_mask import IGNORE, make_labels, rows_without_labels

__all__ = ["MAKE_LABELS", "ROWS_WITHOUT_LABELS"]


_END, _PAD = 2, 0


def _labels_mistake(change):
    """The right example with its labels changed by `change(labels, prompt length, answer length)`."""

    def wrong(prompt, answer, end, length, pad):
        ids, labels = make_labels(prompt, answer, end, length, pad)
        return ids, change(list(labels), ids, len(prompt), len(answer), pad)

    return wrong


def _pad_supervised(labels, ids, prompt, answer, pad):
    return [IGNORE] * prompt + ids[prompt:]


def _end_masked(labels, ids, prompt, answer, pad):
    return [IGNORE if i == prompt + answer else label for i, label in enumerate(labels)]


def _prompt_supervised(labels, ids, prompt, answer, pad):
    return ids[:prompt] + labels[prompt:]


def _shifted(labels, ids, prompt, answer, pad):
    return [*labels[1:], IGNORE]


def _masked_by_zero(labels, ids, prompt, answer, pad):
    return [0 if label == IGNORE else label for label in labels]


def _without_end(prompt, answer, end, length, pad):
    ids, labels = prompt + answer, [IGNORE] * len(prompt) + answer
    missing = length - len(ids)
    return (ids + [pad] * missing)[:length], (labels + [IGNORE] * missing)[:length]


def _padding_by_id(prompt, answer, end, length, pad):
    ids, _ = make_labels(prompt, answer, end, length, pad)
    return ids, [IGNORE if i < len(prompt) or token == pad else token for i, token in enumerate(ids)]


def _draw_example(rng: Random) -> tuple:
    """A prompt and an answer, either of which may hold the end and the padding too."""
    end, pad = rng.sample(range(150_000), k=2)
    prompt, answer = (rng.choices(range(150_000), k=rng.randint(2, 9)) for _ in range(2))
    for ids in (prompt, answer):
        if rng.random() < 0.3:
            ids[rng.randrange(len(ids))] = rng.choice((end, pad))
    return prompt, answer, end, len(prompt) + len(answer) + rng.randint(-1, 6), pad


MAKE_LABELS = Check(
    "make_labels",
    make_labels,
    draw=_draw_example,
    cases=(
        Case(
            "提示 3 词元，回答 4 词元，补到 12",
            ([11, 12, 13], [21, 22, 23, 24], _END, 12, _PAD),
            "提示和填充处是 -100，回答和结束符处是它们自己的编号",
        ),
        Case("正好不用填充", ([11, 12], [21, 22], _END, 5, _PAD), "长度正好时没有填充"),
        Case(
            "回答里有一个词元与填充相同",
            ([11], [21, _PAD, 22], _END, 7, _PAD),
            "按位置决定，不要按编号是否等于 pad_id 决定",
            edge=True,
        ),
        Case(
            "太长，要截断",
            ([11, 12, 13], [21, 22, 23], _END, 5, _PAD),
            "超过 length 的部分从末尾截掉，两个列表一样长",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake(
            "结束符没有监督",
            _labels_mistake(_end_masked),
            "结束符 <|im_end|> 也要计入损失，否则模型学不会停下来",
        ),
        Mistake(
            "提示也监督",
            _labels_mistake(_prompt_supervised),
            "提示 (prompt) 不该计入损失：它是用户写的，不是要学的回答",
        ),
        Mistake(
            "填充也监督", _labels_mistake(_pad_supervised), "填充 (padding) 处应为 -100，否则模型学着输出填充"
        ),
        Mistake("左移一位", _labels_mistake(_shifted), "不用自己左移：模型内部会把标签错开一位"),
        Mistake("用 0 屏蔽", _labels_mistake(_masked_by_zero), "屏蔽用 -100；0 是一个真的词元编号"),
        Mistake("没有结束符", _without_end, "序列里要有结束符：提示 + 回答 + 结束符"),
        Mistake("按编号找填充", _padding_by_id, "回答里也可能有编号等于 pad_id 的词元，要按位置屏蔽填充"),
    ),
)


def _draw_batch(rng: Random) -> tuple:
    """Rows of one width; labels lie between a prompt and padding, or are missing."""
    width, batch = rng.randint(5, 9), []
    for _ in range(rng.randint(4, 9)):
        row = [IGNORE] * width
        if rng.random() < 0.6:
            begin, end = rng.randint(1, 3), width - rng.randint(0, 1)
            row[begin:end] = rng.choices(range(150_000), k=end - begin)
        batch.append(row)
    batch.insert(rng.randrange(len(batch) + 1), [IGNORE, *rng.choices(range(150_000), k=width - 1)])
    return (batch,)


ROWS_WITHOUT_LABELS = Check(
    "rows_without_labels",
    rows_without_labels,
    draw=_draw_batch,
    cases=(
        Case(
            "第二行全是 -100",
            ([[IGNORE, 5, 2], [IGNORE] * 3, [IGNORE, IGNORE, 2]],),
            "一行里只要有一个标签不是 -100，就不算",
        ),
        Case("都有标签", ([[IGNORE, 7], [3, 2]],), "没有这样的行时返回空列表"),
        Case("标签里有 0", ([[IGNORE, 0], [IGNORE, IGNORE]],), "0 是词元编号，不是屏蔽"),
        Case("空的批", ([],), "空的批返回空列表", edge=True),
    ),
    mistakes=(
        Mistake(
            "any",
            lambda b: [i for i, row in enumerate(b) if any(x == IGNORE for x in row)],
            "有 -100 的行很正常（提示）；要找的是全部为 -100 的行",
        ),
        Mistake("从 1 数", lambda b: [i + 1 for i in rows_without_labels(b)], "行号从 0 数起"),
        Mistake("返回个数", lambda b: len(rows_without_labels(b)), "要的是行号的列表，不是个数"),
        Mistake(
            "看总和",
            lambda b: [i for i, row in enumerate(b) if sum(x for x in row if x > 0) == 0],
            "编号为 0 的词元也是标签，用 == -100 判断",
        ),
        Mistake("返回行", lambda b: [b[i] for i in rows_without_labels(b)], "要行号，不是行的内容"),
    ),
)
