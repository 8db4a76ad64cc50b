"""Let a transformers model write: batches of prompts in, texts out, each with whether it stopped by itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt, special tokens removed.

    `ended` is True when the model itself emitted an end token, False when it was cut off.
    """

    text: str
    ended: bool


def chat_prompt(tokenizer, message: str) -> str:
    """One user message in the model's chat template, up to where the assistant begins."""
    messages = [{"role": "user", "content": message}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


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

    Raises ValueError for an empty list or an empty prompt.
    """
    import torch

    if not prompts or not all(prompts):
        raise ValueError("提示 (prompt) 不能为空：请给出至少一个非空的字符串")
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    end_ids = model.generation_config.eos_token_id
    ends = set(end_ids if isinstance(end_ids, list) else [end_ids])
    torch.manual_seed(seed)
    out = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        inputs = tokenizer(part, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        with torch.no_grad():
            ids = model.generate(
                **inputs, max_new_tokens=max_new_tokens, **(sampling if temperature > 0 else greedy)
            )
        for row in ids[:, inputs.input_ids.shape[1] :].tolist():
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            out.append(Completion(tokenizer.decode(row[:stop], skip_special_tokens=True), stop is not None))
    return out
