"""Memory measured: the most bytes of live tensors in a real step, on the CPU or on CUDA."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab_utils import models
from lab_utils.models.loading import nf4_config
from lab_utils.vram.setting import METHODS, Setting, make_setting, require_choice


@dataclass(frozen=True)
class Peak:
    """What a step was measured to hold, in bytes of live tensors."""

    bytes: int
    """The most at one time."""
    before: int
    """What of it was there before the step: weights, adapters, optimizer states."""


def measure(step: Callable[[], object], device: str = "cpu") -> Peak:
    """Run `step()` and give the most bytes of tensors that were alive at one time in it.

    On the CPU torch's profiler reports each allocation and release of torch's allocator; their running
    sum, begun at `live_bytes()`, has the peak. That counts every tensor, also those inside autograd and
    inside an operation, but neither the scratch memory of MKL and oneDNN nor what malloc keeps after a
    release. A tensor from before the step counts to the end even when the step
    frees it, so set gradients to None first. On CUDA it is `torch.cuda.max_memory_allocated()`.
    """
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return Peak(torch.cuda.max_memory_allocated(device), before)
    before = live_bytes()
    profiler = torch.autograd.profiler.profile(profile_memory=True)
    with _silent_stderr():
        profiler.__enter__()
    try:
        step()
    finally:
        with _silent_stderr():
            profiler.__exit__(*sys.exc_info())
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = before
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return Peak(most, before)


def live_bytes() -> int:
    """Bytes of all tensors on the CPU that Python can see, and of their gradients; shared storage once."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor  # torch.compile's, which have no memory

    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and not issubclass(type(thing), FakeTensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu" and tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the line that torch's profiler writes when it starts and ends off the screen."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def measured_step(
    source: str | Path | Callable[[], Any],
    method: str,
    seq_len: int,
    batch_size: int,
    *,
    device: str = "cpu",
    **setting,
) -> Peak:
    """Load the model in the folder `source`, run one step of `method` on random tokens, and measure it.

    `source` may be a function that makes the model instead, for QLoRA already in 4 bit, as `models.random` can. A short step comes before the measured one, so that the optimizer's states are there, as in the middle of a
    training. setting: fields of `Setting`; dtype is float32 unless it is given. Other arguments as for
    `training_step`, whose errors it raises. The peak doesn't count the tensors that were alive before.
    """
    chosen = make_setting({"dtype": "float32"} | setting | {"seq_len": seq_len, "batch_size": batch_size})
    _require_measurable(method, chosen)
    import torch

    others = 0 if device == "cpu" else torch.cuda.memory_allocated(device)
    gc.freeze()  # what is there already, `live_bytes` won't see
    try:
        step = training_step(source, method, chosen, device)
        step(1, min(8, seq_len))
        peak = measure(lambda: step(batch_size, seq_len), device)
    finally:
        gc.unfreeze()
    return Peak(peak.bytes - others, peak.before - others)


def training_step(
    source: str | Path | Callable[[], Any], method: str, setting: Setting, device: str = "cpu"
) -> Callable[[int, int], None]:
    """The model in the folder `source`, or made by it, as a function of (batch, seq) that runs one step of `method` on random tokens.

    Full; LoRA by peft; QLoRA by bitsandbytes in NF4 and peft; inference reads a prompt into a cache. The
    optimizer is `adamw` (fused) or `sgd`, and NF4 has transformers' blocks of 64. On the CPU 4-bit layers of
    peft don't notice autocast. Raises ValueError for what `estimate` refuses and for a setting that can't be
    run here.
    """
    _require_measurable(method, setting)
    return _step(load_model(source, method, setting, device), method, setting, device)


def _require_measurable(method: str, setting: Setting) -> None:
    require_choice("方法 (method)", method, METHODS)
    require_choice("实测的优化器 (optimizer)", setting.optimizer, ("adamw", "sgd"))
    require_choice("实测的量化 (quantization)", setting.quantization, (None,))
    require_choice("实测的分块大小 (block_size)", setting.block_size, (64,))


def load_model(
    source: str | Path | Callable[[], Any], method: str, setting: Setting, device: str = "cpu"
) -> Any:
    """The model in the folder `source`, or made by it, as `method` trains it."""
    models.quiet()
    model = source() if callable(source) else _from_folder(source, method, setting, device)
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if method in ("lora", "qlora"):
        from peft import LoraConfig, get_peft_model

        targets = setting.targets if isinstance(setting.targets, str) else list(setting.targets)
        model = get_peft_model(model, LoraConfig(r=setting.r, target_modules=targets, task_type="CAUSAL_LM"))
    return model.train(method != "inference")


def _from_folder(folder: str | Path, method: str, setting: Setting, device: str) -> Any:
    """The model in `folder`, in 4 bit for QLoRA."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, setting.dtype)
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=setting.attention,
        device_map=device,
        quantization_config=nf4_config(dtype, setting.double_quant) if method == "qlora" else None,
        use_safetensors=True,
    )


def _step(model, method: str, setting: Setting, device: str) -> Callable[[int, int], None]:
    """A function of (batch, seq) that runs one step on random tokens."""
    import torch

    vocab = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    kind = torch.device(device).type
    dtype = getattr(torch, setting.dtype)

    def tokens(batch: int, seq: int) -> torch.Tensor:
        return torch.randint(0, vocab, (batch, seq), generator=draw).to(device)

    def read(batch: int, seq: int) -> None:
        with torch.no_grad():
            model(input_ids=tokens(batch, seq), use_cache=True, logits_to_keep=1)

    if method == "inference":
        return read
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = setting.optimizer == "adamw"
    optimizer = torch.optim.AdamW(trained, fused=True) if adamw else torch.optim.SGD(trained)

    def train(batch: int, seq: int) -> None:
        for _ in range(setting.gradient_accumulation):
            ids = tokens(batch, seq)
            with torch.autocast(kind, dtype, enabled=setting.autocast and dtype != torch.float32):
                mask = torch.ones_like(ids)
                loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train
