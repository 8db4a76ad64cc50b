"""What each smaller model costs and how well it still predicts: parameters, bytes dense and sparse, loss, time."""

import math
import time

import torch
from torch import Tensor

from lab_utils.data.batches import Example, collate
from lab_utils.evaluation.loss import held_out_loss, perplexity

INDEX_BYTES = 4
"""Bytes of one index of a sparse matrix (int32)."""


def compare(models: dict, examples: list[Example], repeats: int = 5):
    """What each model costs and how well it predicts `examples`: a DataFrame, one row a model.

    Columns: `parameters`; `nonzero` of them; `mib`, stored as they are; `sparse_mib`, matrices as CSR with
    32-bit indices where that is smaller; `loss`, nats per token, and `perplexity` on the supervised tokens;
    `time`, the processor time of one forward pass relative to the first model. The passes take turns, and
    each model's fastest of `repeats` counts, so that what else the machine does falls on all alike.
    """
    import pandas as pd

    batch = collate(examples[:32], pad_id=0)
    fastest = dict.fromkeys(models, math.inf)
    with torch.no_grad():
        for _ in range(repeats):
            for name, model in models.items():
                began = time.process_time()
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                fastest[name] = min(fastest[name], time.process_time() - began)
    first = next(iter(fastest.values()))
    rows = []
    for name, model in models.items():
        loss = held_out_loss(model, examples)
        row = {"model": name, **weight_counts(model), "loss": loss, "perplexity": perplexity(loss)}
        rows.append({**row, "time": fastest[name] / first})
    return pd.DataFrame(rows)


def weight_counts(model) -> dict[str, float]:
    """`parameters`, `nonzero`, `mib` and `sparse_mib` of a model, tied weights once; see `compare`."""
    weights = list(model.parameters())
    dense = sum(weight.numel() * weight.element_size() for weight in weights)
    sparse = sum(min(weight.numel() * weight.element_size(), _csr_bytes(weight)) for weight in weights)
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "nonzero": sum(int(weight.count_nonzero()) for weight in weights),
        "mib": dense / 2**20,
        "sparse_mib": sparse / 2**20,
    }


def _csr_bytes(weight: Tensor) -> int:
    """Bytes as a compressed-row matrix: a value and a column for each nonzero, a pointer for each row."""
    return (
        int(weight.count_nonzero()) * (weight.element_size() + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES
    )
