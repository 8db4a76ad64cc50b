"""Pretraining: pack documents, train a small Qwen3 on the CPU, resume where it stopped."""

import json
import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from lab_utils.files import atomic_file
from lab_utils.verse import RHYME_GROUPS, rhyme_groups


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of the run. Defaults are those of the shipped model."""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    pack_length: int = 128
    """Tokens in one row of a batch; documents are packed into rows, none is cut."""
    batch_rows: int = 32
    epochs: float = 2.6
    muon_lr: float = 0.008
    """Learning rate of Muon (Jordan et al. 2024), for the matrices inside the layers."""
    adamw_lr: float = 3e-3
    """Learning rate of AdamW, for embeddings and norms."""
    weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_share: float = 0.6
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    rhyme_weight: float = 3.0
    """Weight in the loss of the character before a full stop, where verse rhymes."""
    seed: int = 42


@dataclass(frozen=True)
class Packs:
    """Packed documents. `ids` and `segment`: (rows, pack_length) int64; segment 0 is padding."""

    ids: torch.Tensor
    segment: torch.Tensor


def pack(docs: list[list[int]], length: int, pad_id: int, seed: int = 0) -> Packs:
    """First-fit packing of token lists into rows of `length`; longer documents are left out."""
    rng = random.Random(seed)
    docs = [doc for doc in docs if len(doc) <= length]
    rng.shuffle(docs)
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # row numbers by free space
    rows: list[list[list[int]]] = []
    for doc in docs:
        room = next((r for r in range(len(doc), length + 1) if open_rows[r]), None)
        if room is None:
            rows.append([])
            place, room = len(rows) - 1, length
        else:
            place = open_rows[room].pop(rng.randrange(len(open_rows[room])))
        rows[place].append(doc)
        open_rows[room - len(doc)].append(place)
    rng.shuffle(rows)
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    segment = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        at = 0
        for number, doc in enumerate(row, 1):
            ids[i, at : at + len(doc)] = doc
            segment[i, at : at + len(doc)] = number
            at += len(doc)
    return Packs(torch.from_numpy(ids), torch.from_numpy(segment))


def make_model(settings: Settings, vocab_size: int, tokenizer: PreTrainedTokenizerBase):
    """A randomly initialized Qwen3 with tied embeddings."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_key_value_heads,
        head_dim=settings.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    config._attn_implementation = "eager"  # three times sdpa's speed in bf16 on this CPU
    model = Qwen3ForCausalLM(config)
    both_ends = [config.eos_token_id, config.pad_token_id]
    model.generation_config.update(
        eos_token_id=both_ends, pad_token_id=config.pad_token_id, do_sample=True, temperature=0.7, top_p=0.9
    )
    return model


def weighted_loss(model, ids, segment, stop_id: int, rhyme_weight: float):
    """Cross-entropy inside each document, `(weighted for training, plain)`, in nats per token.

    ids, segment: (batch, length). A token sees its own document only.
    """
    same = segment[:, :, None] == segment[:, None, :]
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.where(same & causal, 0.0, -1e4)[:, None]
    hidden = model.model(input_ids=ids, attention_mask=bias, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1]).float()
    target = ids[:, 1:]
    real = ((segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)).float()
    nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    before_stop = F.pad((target[:, 1:] == stop_id).float(), (0, 1))
    weight = real * (1 + (rhyme_weight - 1) * before_stop)
    return (nll * weight).sum() / weight.sum(), (nll.detach() * real).sum() / real.sum()


def rhyme_mass(model, tokenizer, poems: list, batch: int = 64) -> float:
    """Mean probability, at the last character of line 4, of a character rhyming with line 2.

    A measure of learned rhyme that needs no sampling. `poems`: quatrains.
    """
    names = list(RHYME_GROUPS)
    member = torch.zeros(len(tokenizer), len(names))
    for token, index in tokenizer.get_vocab().items():
        char = tokenizer.convert_tokens_to_string([token])
        if len(char) == 1:
            for group in rhyme_groups(char, most=None):
                member[index, names.index(group)] = 1
    total = 0.0
    for start in range(0, len(poems), batch):
        part = poems[start : start + batch]
        texts = [f"《{p.title}》\n{p.text}"[:-2] for p in part]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            probs = model(**inputs).logits[:, -1].float().softmax(-1)
        for row, poem in zip(probs, part, strict=True):
            wanted = [names.index(g) for g in rhyme_groups(poem.lines[1][-1], most=None)]
            rhymes = member[:, wanted].amax(1)
            rhymes[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(poem.lines[1][-1]))] = 0
            total += (row * rhymes).sum().item()
    return total / len(poems)


def evaluate(model, packs: Packs, stop_id: int, rows: int = 32) -> float:
    """Plain loss on `packs`, nats per token."""
    parts = [slice(start, start + rows) for start in range(0, len(packs.ids), rows)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = [weighted_loss(model, packs.ids[p], packs.segment[p], stop_id, 1.0)[1] for p in parts]
    return torch.stack(losses).mean().item()


def learning_rate_factor(step: int, steps: int, settings: Settings) -> float:
    """Warm-up, constant, then linear decay to zero: between 0 and 1."""
    decay_from = steps * (1 - settings.decay_share)
    return min(1, (step + 1) / settings.warmup_steps, max(0.0, (steps - step) / (steps - decay_from)))


def train(
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    docs: list[str],
    held_out: list,
    folder: Path,
    minutes: float = math.inf,
) -> Path:
    """Train, or go on from `folder/state.pt`; the folder with the finished model.

    Every 500 steps held-out loss and rhyme go to `folder/log.jsonl` and the state is saved,
    so that a run cut off anywhere loses at most that much. Stops early, unfinished, after
    `minutes`; raises RuntimeError when the loss is no longer finite.
    """
    torch.manual_seed(settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    (stop,) = tokenizer("。").input_ids
    packs = _encode(tokenizer, docs, settings, end)
    held = _encode(tokenizer, [f"《{p.title}》\n{p.text}" for p in held_out if p.title], settings, end)
    model = make_model(settings, len(tokenizer), tokenizer)
    optimizers = _optimizers(model, settings)
    steps = int(settings.epochs * len(packs.ids) / settings.batch_rows)
    first = _resume(folder / "state.pt", model, optimizers)
    size = f"{model.num_parameters():,} parameters, {packs.ids.numel():,} tokens"
    print(f"{size}, steps {first}-{steps}", flush=True)
    loss_of = _compiled(weighted_loss)
    order = _order(len(packs.ids), settings, steps)
    began, seen, running = time.time(), 0, math.nan
    for step in range(first, steps):
        rows = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
        with torch.autocast("cpu", torch.bfloat16):
            loss, plain = loss_of(model, packs.ids[rows], packs.segment[rows], stop, settings.rhyme_weight)
        loss.backward()
        _update(model, optimizers, learning_rate_factor(step, steps, settings))
        seen += rows.numel() * settings.pack_length
        running = plain.item() if step == first else 0.98 * running + 0.02 * plain.item()
        if not math.isfinite(running):
            raise RuntimeError(f"loss is {running} at step {step}; lower muon_lr or adamw_lr")
        done, speed = step + 1, seen / (time.time() - began)
        if done % 500 == 0 or done == steps:
            row = {
                "step": done,
                "epoch": round(done * settings.batch_rows / len(packs.ids), 3),
                "train_loss": round(running, 4),
                "held_out_loss": round(evaluate(model, held, stop), 4),
                "rhyme_mass": round(rhyme_mass(model, tokenizer, _quatrains(held_out)), 4),
                "tokens_per_second": round(speed),
            }
            _keep(folder / "state.pt", row, model, optimizers)
        elif done % 50 == 0:
            print(f"{done}/{steps} loss {running:.4f} {speed:.0f} tokens/s", flush=True)
        if time.time() - began > minutes * 60:
            break
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    return save(model, tokenizer, folder / "model")


def _quatrains(held_out: list) -> list:
    """Up to 256 quatrains with a short title, on which learned rhyme is measured."""
    return [poem for poem in held_out if len(poem.lines) == 4 and 0 < len(poem.title) <= 8][:256]


def _resume(state: Path, model, optimizers: list[torch.optim.Optimizer]) -> int:
    """Put model and optimizers into a saved state, if there is one; the step to go on with."""
    if not state.exists():
        return 0
    saved = torch.load(state, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return saved["step"]


def _update(model, optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """One step of the optimizers at `factor` of their learning rates, gradients clipped to norm 1."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _keep(state: Path, row: dict, model, optimizers: list[torch.optim.Optimizer]) -> None:
    """Append `row` to the log beside `state`, and save the training as it stands to `state`."""
    with state.with_name("log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    print(row, flush=True)
    values = [optimizer.state_dict() for optimizer in optimizers]
    with atomic_file(state) as made:
        torch.save({"model": model.state_dict(), "optimizers": values, "step": row["step"]}, made)


def save(model, tokenizer, folder: Path) -> Path:
    """Write model, tokenizer and generation settings to `folder`.

    Weights are stored in bfloat16 to keep the package small; the config says float32, so that
    is what they are loaded in: the safe choice on a CPU.
    """
    shutil.rmtree(folder, ignore_errors=True)
    half = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    model.save_pretrained(folder, state_dict=half)
    tokenizer.save_pretrained(folder)
    return folder


def _encode(tokenizer, docs: list[str], settings: Settings, end: int) -> Packs:
    encoded = tokenizer(docs, add_special_tokens=False).input_ids
    return pack([[*ids, end] for ids in encoded], settings.pack_length, end, settings.seed)


def _optimizers(model, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest."""
    inner = [
        p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        inner, lr=settings.muon_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=settings.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adamw]


def _compiled(function: Callable) -> Callable:
    """`function`, compiled; as it is where torch lies on a path with a blank, which its compiler can't pass on to g++."""
    if " " in torch.__file__:
        print("torch lies on a path with a blank: training runs uncompiled, more slowly", flush=True)
        return function
    return torch.compile(function)


def _order(rows: int, settings: Settings, steps: int) -> torch.Tensor:
    """Row numbers for the whole run: each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(settings.seed)
    epochs = math.ceil(steps * settings.batch_rows / rows) + 1
    return torch.cat([torch.randperm(rows, generator=generator) for _ in range(epochs)])
