"""Let a transformers model write: batches of prompts in, texts out, each with whether it stopped by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab_utils.errors import InvalidValue


@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt, special tokens removed.

    `ended` is True when the model itself emitted an end token, False when it was cut off. `tokens`: how many it
    wrote, the end token included, padding not; None where that isn't known. Completions are equal when their
    texts and ends are.
    """

    text: str
    ended: bool
    tokens: int | None = field(default=None, compare=False)


def chat_prompt(tokenizer, message: str) -> str:
    """One user message in the model's chat template, up to where the assistant begins."""
    messages = [{"role": "user", "content": message}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def decoding(temperature: float = 0.0, top_p: float = 1.0) -> dict:
    """Arguments of transformers' `generate`: at temperature 0 the likeliest token each time, else sampling.

    What the model's own generation settings say of it counts for nothing.
    """
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def end_ids(eos_token_id: int | list[int] | None) -> list[int]:
    """The end tokens that an `eos_token_id` names: transformers allows one, several or none."""
    if eos_token_id is None:
        return []
    return eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]


def complete_batch(model, tokenizer, inputs: Mapping, max_new_tokens: int, **options) -> list[Completion]:
    """What follows each row of a batch. `inputs`: `input_ids` and `attention_mask`, (batch, seq), padded on
    the left, on the model's device; `options`: further arguments of `generate`, as `decoding` gives them."""
    import torch

    ends = end_ids(model.generation_config.eos_token_id)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)
    out = []
    for row in ids[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        text = tokenizer.decode(row[:stop], skip_special_tokens=True)
        out.append(Completion(text, stop is not None, len(row) if stop is None else stop + 1))
    return out


def complete(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
) -> list[Completion]:
    """Continue each prompt; `temperature` 0 is greedy. Same prompts, same seed, same texts.

    Raises InvalidValue for an empty list or an empty prompt.
    """
    import torch

    if not prompts or not all(prompts):
        raise InvalidValue("提示 (prompt) 不能为空", "请给出至少一个非空的字符串")
    options = decoding(temperature, top_p)
    torch.manual_seed(seed)
    out = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        inputs = tokenizer(part, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        out += complete_batch(model, tokenizer, inputs, max_new_tokens, **options)
    return out
