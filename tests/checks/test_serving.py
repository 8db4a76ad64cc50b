"""The checks of lab 11 accept right answers, however written, and name each typical mistake."""

import json
import math
from itertools import pairwise

import pytest

from lab_utils.checks import serving
from tests.checks.kit import assert_check


def body_by_parts(model, text, max_tokens, thinking):
    message = {"content": text, "role": "user"}
    extra = {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}
    return {"max_tokens": max_tokens, "model": model, "messages": [message]} | extra


def body_by_assignment(model, text, max_tokens, thinking):
    body = {"model": model, "messages": [], "max_tokens": max_tokens}
    body["messages"].append({"role": "user", "content": text})
    if thinking in (True, False):
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def text_by_split(line):
    _, _, data = line.partition(":")
    if data.strip() == "[DONE]":
        return None
    for choice in json.loads(data)["choices"] if data else []:
        return choice["delta"].get("content") or ""
    return ""


def text_by_trying(line):
    if "[DONE]" in line:
        return None
    try:
        return json.loads(line[6:])["choices"][0]["delta"]["content"] or ""
    except (ValueError, LookupError):
        return ""


def length_by_table(text):
    for letter, unit in (("k", 1000), ("K", 1024)):
        if text.endswith(letter):
            return int(float(text[:-1]) * unit)
    return int(text)


def length_by_match(text):
    match text[-1]:
        case "k":
            return round(float(text[:-1]) * 1e3)
        case "K":
            return int(text[:-1]) << 10
    return int(text)


def gap_by_ends(sent, pieces):
    n = len(pieces) - 1
    return [pieces[0] - sent, (pieces[-1] - pieces[0]) / n if n else 0.0]


def gap_by_pairs(sent, pieces):
    gaps = [b - a for a, b in pairwise(pieces)]
    return pieces[0] - sent, sum(gaps) / max(1, len(gaps))


def percentile_by_counting(values, q):
    return min(v for v in values if sum(u <= v for u in values) >= q / 100 * len(values))


def percentile_by_integers(values, q):
    return sorted(values)[-(-q * len(values) // 100) - 1]


def continuous_by_heap(lengths, slots):
    import heapq

    heap = [0] * slots
    for length in lengths:
        heapq.heappush(heap, heapq.heappop(heap) + length)
    return max(heap)


def continuous_by_steps(lengths, slots):
    waiting, writing, steps = list(lengths), [], 0
    while waiting or writing:
        while waiting and len(writing) < slots:
            writing.append(waiting.pop(0))
        writing = [left - 1 for left in writing if left > 1]
        steps += 1
    return steps


def kv_by_layers(layers, kv_heads, head_dim, dtype_bytes):
    key = value = kv_heads * head_dim * dtype_bytes
    return sum(key + value for _ in range(layers))


def kv_by_product(layers, kv_heads, head_dim, dtype_bytes):
    return math.prod([layers, kv_heads, 2, head_dim, dtype_bytes])


def blocks_by_ceil(lengths, block_size):
    return sum(math.ceil(length / block_size) for length in lengths)


def blocks_by_filling(lengths, block_size):
    return sum(len(range(0, length, block_size)) for length in lengths)


@pytest.mark.parametrize(
    ("check", "accepted"),
    [
        (serving.REQUEST_BODY, [body_by_parts, body_by_assignment]),
        (serving.STREAM_TEXT, [text_by_split, text_by_trying]),
        (serving.LENGTH_TOKENS, [length_by_table, length_by_match]),
        (serving.FIRST_AND_GAP, [gap_by_ends, gap_by_pairs]),
        (serving.PERCENTILE, [percentile_by_counting, percentile_by_integers]),
        (serving.CONTINUOUS_STEPS, [continuous_by_heap, continuous_by_steps]),
        (serving.KV_BYTES_PER_TOKEN, [kv_by_layers, kv_by_product]),
        (serving.BLOCKS_NEEDED, [blocks_by_ceil, blocks_by_filling]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_checks(check, accepted):
    assert_check(check, accepted)
