"""KTO equals TRL's KTOTrainer from logits to gradient; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl.experimental.kto import KTOTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    VOCAB,
    Bigram,
    bare,
    generators,
    integer,
    logps_of,
    number,
    prompts_and_completions,
    same,
    same_gradients,
)


def kto_batch(generator):
    """Unpaired examples with labels, some batches all desirable or all undesirable, and mismatched pairs."""
    rows = integer(generator, 1, 6)
    own, mismatched = (
        prompts_and_completions(generator, rows, VOCAB, integer(generator, 2, 9)) for _ in range(2)
    )
    batch = {"label": [bool(integer(generator, 0, 1)) for _ in range(rows)]}
    for prefix, rows_of in (("completion", own), ("KL_completion", mismatched)):
        for key in ("input_ids", "attention_mask", "labels"):
            batch[f"{prefix}_{key}"] = rows_of[key]
    return batch, own, mismatched


def test_kto_equals_trl_from_logits_to_gradient(accelerator):
    sides, points = set(), set()
    for generator in generators():
        batch, own, mismatched = kto_batch(generator)
        policy, reference = Bigram(VOCAB, generator), Bigram(VOCAB, generator).requires_grad_(False)
        beta, weights = number(generator, 0.05, 1.0), [number(generator, 0.5, 2.0) for _ in range(2)]
        trainer = bare(
            KTOTrainer,
            model=policy,
            ref_model=reference,
            accelerator=accelerator,
            args=SimpleNamespace(use_liger_kernel=False),
            beta=beta,
            desirable_weight=weights[0],
            undesirable_weight=weights[1],
            loss_type="kto",
            calculate_KL=True,
            aux_loss_enabled=False,
        )
        theirs, logged = trainer.get_batch_loss_metrics(policy, batch)
        point = align.kto_reference_point(logps_of(policy, mismatched), logps_of(reference, mismatched))
        label = torch.tensor(batch["label"])
        logps = [logps_of(model, own)[side] for model in (policy, reference) for side in (label, ~label)]
        ours = align.kto_loss(*logps, point, beta, *weights)
        same_gradients(ours.mean(), theirs, policy.table)
        assert logged["kl"] == pytest.approx(point.item())
        sides.add((bool(label.any()), bool((~label).any())))
        points.add(point.item() > 0)
    assert sides == {(True, True), (True, False), (False, True)} and points == {True, False}


def test_known_values():
    same(align.kto_loss(*torch.zeros(4, 3), torch.tensor(0.0), 0.1), torch.full((6,), 0.5))
    assert align.kto_reference_point(-torch.ones(2), torch.zeros(2)).item() == 0


ONE, THREE = torch.zeros(2), torch.zeros(3)
NAN = torch.tensor([0.0, math.nan])
LIVE = torch.zeros(2, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.kto_loss(ONE, THREE, ONE, ONE, torch.tensor(0.0), 0.1), "ref_rejected_logps"),
        (lambda: align.kto_loss(ONE, ONE, ONE, ONE, LIVE.sum(), 0.1), "reference_point 还连着"),
        (lambda: align.kto_loss(ONE, ONE, ONE, ONE, torch.tensor(0.0), 0.1, 0.0), "desirable_weight"),
        (lambda: align.kto_reference_point(ONE, NAN), "nan"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
