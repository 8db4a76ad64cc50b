"""DPO and IPO equal TRL's DPOTrainer from logits to gradient; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    VOCAB,
    Bigram,
    bare,
    generators,
    integer,
    logps_of,
    normal,
    number,
    prompts_and_completions,
    same,
    same_gradients,
)


def pairs(generator):
    """A batch of chosen completions and one of rejected, of equal width as DPO's collator gives them."""
    rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
    both = prompts_and_completions(generator, 2 * rows, VOCAB, width)
    halves = [{key: value.chunk(2)[side] for key, value in both.items()} for side in (0, 1)]
    return both, *halves


def dpo_trainer(accelerator, policy, reference, beta, loss_type):
    return bare(
        DPOTrainer,
        model=policy,
        ref_model=reference,
        accelerator=accelerator,
        args=SimpleNamespace(max_length=None, gradient_checkpointing_kwargs=None),
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        label_smoothing=0.0,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        precompute_ref_logps=False,
        use_weighting=False,
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo_equals_trl_from_logits_to_gradient(accelerator, loss_type):
    for generator in generators():
        both, chosen, rejected = pairs(generator)
        policy, reference = Bigram(VOCAB, generator), Bigram(VOCAB, generator).requires_grad_(False)
        beta = number(generator, 0.01, 1.0)
        trainer = dpo_trainer(accelerator, policy, reference, beta, loss_type)
        theirs = trainer._compute_loss(policy, both, return_outputs=False)
        average = loss_type == "ipo"
        logps = [
            logps_of(model, side, average) for model in (policy, reference) for side in (chosen, rejected)
        ]
        ours = align.dpo_loss(*logps, beta, loss_type)
        assert ours.shape == (len(chosen["labels"]),)
        same_gradients(ours.mean(), theirs, policy.table)


def test_implicit_rewards_equal_what_dpo_trainer_logs(accelerator):
    for generator in generators():
        both, chosen, rejected = pairs(generator)
        policy, reference = Bigram(VOCAB, generator), Bigram(VOCAB, generator).requires_grad_(False)
        beta = number(generator, 0.01, 1.0)
        trainer = dpo_trainer(accelerator, policy, reference, beta, "sigmoid")
        trainer._compute_loss(policy, both, return_outputs=False)
        logged = trainer._metrics["train"]
        rewards = [
            align.implicit_rewards(logps_of(policy, side), logps_of(reference, side), beta)
            for side in (chosen, rejected)
        ]
        assert logged["rewards/chosen"] == [pytest.approx(rewards[0].mean().item())]
        assert logged["rewards/rejected"] == [pytest.approx(rewards[1].mean().item())]
        assert logged["rewards/margins"] == [pytest.approx((rewards[0] - rewards[1]).mean().item())]
        assert logged["rewards/accuracies"] == [pytest.approx(align.reward_accuracy(*rewards).item())]
        assert logged["logps/chosen"] == [pytest.approx(logps_of(policy, chosen).mean().item())]


def test_label_smoothing_equals_cpo_loss_on_log_ratios(accelerator):
    """TRL's DPO "sigmoid" has no smoothing; its CPO has, and is DPO's loss when given log-ratios."""
    for generator in generators():
        logps = normal(generator, 4, integer(generator, 1, 6)) * 5
        beta, smoothing = number(generator, 0.01, 1.0), number(generator, 0.0, 0.49)
        trainer = bare(
            CPOTrainer,
            accelerator=accelerator,
            alpha=0.0,
            beta=beta,
            label_smoothing=smoothing,
            loss_type="sigmoid",
        )
        ours = align.dpo_loss(*logps, beta, label_smoothing=smoothing)
        same(ours, trainer.cpo_loss(logps[0] - logps[2], logps[1] - logps[3])[0])


def test_dpo_starts_at_ln_2():
    logps = -torch.rand(2, 5, generator=torch.Generator().manual_seed(0)) * 50
    same(align.dpo_loss(*logps, *logps, beta=0.1), torch.full((5,), math.log(2)))
    same(align.dpo_loss(*logps, *logps, 0.1, label_smoothing=0.3), torch.full((5,), math.log(2)))
    same(align.dpo_loss(*logps, *logps, 0.1, "ipo"), torch.full((5,), 25.0))


def test_label_smoothing_weighs_both_directions():
    zero, h = torch.zeros(1), torch.tensor([2.0])
    right, wrong = -math.log(1 / (1 + math.exp(-1))), -math.log(1 / (1 + math.exp(1)))
    loss = align.dpo_loss(h, zero, zero, zero, beta=0.5, label_smoothing=0.2)
    assert loss.item() == pytest.approx(0.8 * right + 0.2 * wrong)


ONE, TWO, THREE = torch.zeros(2), torch.zeros(2), torch.zeros(3)
NAN = torch.tensor([0.0, math.nan])
LIVE = torch.zeros(2, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.dpo_loss(ONE, TWO, THREE, TWO, 0.1), r"形状 \(shape\) 不同.*ref_chosen_logps 是 \(3,\)"),
        (lambda: align.dpo_loss(*torch.zeros(4, 2, 3), 0.1), r"policy_chosen_logps 的形状.*每条序列一个数"),
        (lambda: align.dpo_loss(ONE, NAN, ONE, ONE, 0.1), r"policy_rejected_logps 在位置 \(1,\) 的值是 nan"),
        (lambda: align.dpo_loss(ONE, ONE, LIVE, ONE, 0.1), r"ref_chosen_logps 还连着计算图.*detach"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, 0), "beta 应大于 0"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, -0.1), "beta 应大于 0"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, math.nan), "beta 应大于 0"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, 0.1, "hinge"), "loss_type 只有"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, 0.1, label_smoothing=0.5), "label_smoothing 应在"),
        (lambda: align.dpo_loss(ONE, ONE, ONE, ONE, 0.1, "ipo", 0.1), "IPO 请保持为 0"),
        (lambda: align.implicit_rewards(ONE, THREE, 0.1), "形状"),
        (lambda: align.implicit_rewards(ONE, ONE, 0), "beta"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
