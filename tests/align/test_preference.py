"""Preference losses equal TRL's installed code on random batches; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl import DPOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.kto import KTOTrainer
from trl.experimental.orpo import ORPOTrainer

from lab_utils import align
from tests.align.trl_code import (
    Bigram,
    Scorer,
    bare,
    generators,
    integer,
    normal,
    number,
    prompts_and_completions,
    same,
    same_gradients,
)

VOCAB = 7


def logps_of(model, batch, average=False):
    return align.sequence_logps(model(batch["input_ids"]).logits, batch["labels"], average=average)


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


@pytest.mark.parametrize("with_margin", [False, True])
def test_bradley_terry_equals_reward_trainer(accelerator, with_margin):
    for generator in generators():
        rows = integer(generator, 1, 6)
        batch = prompts_and_completions(generator, 2 * rows, VOCAB, integer(generator, 2, 9))
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        model = Scorer(VOCAB, generator)
        margin = normal(generator, rows).abs() if with_margin else None
        chosen, rejected = model(**inputs).logits.squeeze(-1).chunk(2)
        ours = align.bradley_terry_loss(chosen, rejected, margin)
        trainer = bare(
            RewardTrainer,
            model=model,
            accelerator=accelerator,
            args=SimpleNamespace(center_rewards_coefficient=None),
        )
        theirs = trainer.compute_loss(model, inputs | ({"margin": margin} if with_margin else {}))
        same_gradients(ours.mean(), theirs, model.table)
        accuracy = align.reward_accuracy(chosen, rejected).item()
        assert trainer._metrics["train"]["accuracy"] == [pytest.approx(accuracy)]


def paired_batch(chosen, rejected):
    """The batch that ORPO's and CPO's trainers take; the rejected side may be narrower."""
    return {
        f"{side}_{key}": rows[key]
        for side, rows in (("chosen", chosen), ("rejected", rejected))
        for key in ("input_ids", "attention_mask", "labels")
    }


def test_orpo_equals_trl(accelerator):
    for generator in generators():
        rows = integer(generator, 1, 5)
        chosen, rejected = (
            prompts_and_completions(generator, rows, VOCAB, integer(generator, 2, 9)) for _ in range(2)
        )
        policy, beta = Bigram(VOCAB, generator), number(generator, 0.05, 1.0)
        trainer = bare(
            ORPOTrainer,
            model=policy,
            accelerator=accelerator,
            beta=beta,
            is_encoder_decoder=False,
            padding_value=0,
            aux_loss_enabled=False,
        )
        theirs, logged = trainer.get_batch_loss_metrics(policy, paired_batch(chosen, rejected))
        everything = chosen["input_ids"].where(chosen["attention_mask"].bool(), -100)
        tokens = align.token_logps(policy(chosen["input_ids"]).logits, everything)
        nll = -tokens.sum() / (everything[:, 1:] != -100).sum()
        logps = [logps_of(policy, side, average=True) for side in (chosen, rejected)]
        same_gradients(align.orpo_loss(*logps, nll, beta).mean(), theirs, policy.table)
        assert logged["log_odds_chosen"] == pytest.approx(
            align.log_odds_ratio(*logps).mean().item(), abs=1e-6, rel=1e-6
        )


def test_simpo_equals_trl(accelerator):
    for generator in generators():
        rows = integer(generator, 1, 5)
        chosen, rejected = (
            prompts_and_completions(generator, rows, VOCAB, integer(generator, 2, 9)) for _ in range(2)
        )
        policy, beta, gamma = Bigram(VOCAB, generator), number(generator, 0.5, 3.0), number(generator, 0, 2)
        trainer = bare(
            CPOTrainer,
            model=policy,
            accelerator=accelerator,
            alpha=0.0,
            beta=beta,
            simpo_gamma=gamma,
            loss_type="simpo",
            label_smoothing=0.0,
            cpo_alpha=0.0,
            is_encoder_decoder=False,
            pad_token_id=0,
            aux_loss_enabled=False,
        )
        theirs, _ = trainer.get_batch_loss_metrics(policy, paired_batch(chosen, rejected))
        logps = [logps_of(policy, side, average=True) for side in (chosen, rejected)]
        same_gradients(align.simpo_loss(*logps, beta, gamma).mean(), theirs, policy.table)


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


def test_known_values_of_the_others():
    assert align.bradley_terry_loss(torch.ones(1), torch.ones(1)).item() == pytest.approx(math.log(2))
    same(align.simpo_loss(-torch.ones(1), -torch.ones(1), 2.0, 0.0), torch.tensor([math.log(2)]))
    half, fifth = torch.tensor([math.log(1 / 2)]), torch.tensor([math.log(1 / 5)])
    same(align.log_odds_ratio(half, fifth), torch.tensor([math.log(4)]))
    same(align.orpo_loss(half, fifth, torch.tensor(1.0), 0.1), torch.tensor([1 - 0.1 * math.log(4 / 5)]))
    same(align.kto_loss(*torch.zeros(4, 3), torch.tensor(0.0), 0.1), torch.full((6,), 0.5))
    assert align.kto_reference_point(-torch.ones(2), torch.zeros(2)).item() == 0


def test_a_tie_is_no_success():
    assert align.reward_accuracy(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])).item() == 0.5


def test_log_odds_are_finite_near_one_in_float32():
    sure = torch.tensor([-1e-6], requires_grad=True)
    odds = align.log_odds_ratio(sure, torch.tensor([-30.0]))
    odds.sum().backward()
    assert odds.item() == pytest.approx(30 - math.log(1e-6), rel=1e-5) and torch.isfinite(sure.grad).all()


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
        (lambda: align.bradley_terry_loss(ONE, THREE), "形状"),
        (lambda: align.bradley_terry_loss(ONE, TWO, THREE), "margin"),
        (lambda: align.reward_accuracy(ONE, NAN), "nan"),
        (lambda: align.log_odds_ratio(ONE - 1, ONE), "rejected_logps 里有不小于 0 的值"),
        (lambda: align.orpo_loss(ONE - 1, ONE - 1, ONE, 0.1), r"chosen_nll 的形状"),
        (lambda: align.orpo_loss(ONE - 1, ONE - 1, torch.tensor(1.0), 0), "beta"),
        (lambda: align.kto_loss(ONE, THREE, ONE, ONE, torch.tensor(0.0), 0.1), "ref_rejected_logps"),
        (lambda: align.kto_loss(ONE, ONE, ONE, ONE, LIVE.sum(), 0.1), "reference_point 还连着"),
        (lambda: align.kto_loss(ONE, ONE, ONE, ONE, torch.tensor(0.0), 0.1, 0.0), "desirable_weight"),
        (lambda: align.kto_reference_point(ONE, NAN), "nan"),
        (lambda: align.simpo_loss(ONE, ONE, 2.0, -1), "gamma"),
        (lambda: align.simpo_loss(ONE, ONE, 0.0, 1), "beta"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_list_is_no_tensor():
    with pytest.raises(TypeError, match="rewards_chosen 应为张量"):
        align.bradley_terry_loss([1.0], torch.zeros(1))
