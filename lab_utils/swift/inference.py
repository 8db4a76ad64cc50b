"""Generate with `swift infer` for a file of conversations, and read the answers back."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab_utils.data.jsonl import read_jsonl
from lab_utils.models.generation import end_ids
from lab_utils.swift import failure
from lab_utils.swift.build import command
from lab_utils.swift.failure import SwiftError
from lab_utils.swift.runner import run


@dataclass(frozen=True)
class Answer:
    """One generated answer. `finished`: the model ended it itself with an end token, rather than
    being cut off at `max_new_tokens`; `tokens`: how many it generated, the end token included
    unless that is also the padding token; `label`: the reference answer of the row, if any."""

    messages: list[dict]
    text: str
    finished: bool
    tokens: int
    label: str | None = None


def infer_file(
    model: str | Path,
    dataset: str | Path,
    adapter: str | Path | None = None,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 42,
    batch_size: int = 16,
    template: str = "chatml",
    model_type: str = "qwen3",
    result_path: str | Path | None = None,
    timeout: float | None = None,
    progress: bool = False,
    **flags,
) -> list[Answer]:
    """Answers of `model` (with `adapter`, a checkpoint folder) to each row of `dataset`, in order.

    `dataset`: a `.jsonl` of `messages`; a closing assistant turn is the reference, not shown to the model.
    `temperature` 0 is greedy. With an adapter trained by QLoRA, ms-swift loads the base in 4 bit again, as in
    training. `result_path`: keep the raw results. Raises SwiftError when the run fails or an answer is missing.
    """
    rows = read_jsonl(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(result_path) if result_path else Path(scratch, "result.jsonl")
        result.unlink(missing_ok=True)  # ms-swift appends
        outcome = run(
            command(
                "infer",
                model=model,
                adapters=adapter,
                model_type=model_type,
                template=template,
                val_dataset=dataset,
                result_path=result,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                max_batch_size=batch_size,
                stream=False,
                logprobs=True,
                **flags,
            ),
            progress=progress,
            timeout=timeout,
        )
        ends = _end_tokens(Path(model))
        answers = [_answer(row, max_new_tokens, ends) for row in read_jsonl(result)]
        _check_rows(rows, answers, outcome.log_path)
    return answers


def _answer(row: dict, allowed: int, ends: set[str]) -> Answer:
    """The answer in a row of ms-swift's result file.

    That has no finish reason. It does hold, with `--logprobs true`, each generated token, padding removed. So an
    answer was ended by the model when its last token is an end token or when it has fewer tokens than allowed
    (its end token was also the padding).
    """
    tokens = [token["token"] for token in ((row.get("logprobs") or {}).get("content") or [])]
    finished = len(tokens) < allowed or tokens[-1] in ends
    return Answer(row["messages"][:-1], row["response"], finished, len(tokens), row.get("labels"))


def _end_tokens(model: Path) -> set[str]:
    """Texts of the tokens at which generation stops, from a local model's own files."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = end_ids(GenerationConfig.from_pretrained(model).eos_token_id)
    return {tokenizer.eos_token, *(tokenizer.decode([i]) for i in ids)}


def _check_rows(rows: list[dict], answers: list[Answer], log_path: Path) -> None:
    """Each row must have its answer, in order: ms-swift drops rows it can't use."""
    prompts = [_prompt(row["messages"]) for row in rows]
    if prompts != [_prompt(answer.messages) for answer in answers]:
        raise SwiftError(
            f"给了 {len(rows)} 行，得到 {len(answers)} 个回答，或次序不同",
            failure.Cause(
                "rows",
                "ms-swift 丢弃了它不能用的行（太长或格式不对）",
                "检查数据的 messages，调大 max_length",
            ),
            log_path=log_path if log_path.exists() else None,
        )


def _prompt(messages: list[dict]) -> str:
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return json.dumps([[m["role"], m["content"]] for m in asked], ensure_ascii=False)
