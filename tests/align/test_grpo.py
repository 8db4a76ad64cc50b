"""GRPO's advantages and loss equal TRL's GRPOTrainer on random batches, with gradients; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerState
from trl import GRPOTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    VOCAB,
    Bigram,
    bare,
    generators,
    integer,
    mask_of,
    normal,
    number,
    same,
    same_gradients,
)


def grpo_inputs(generator, policy, reference):
    """What GRPOTrainer hands to its loss: prompts padded left, completions right, some cut away whole."""
    rows, prompt, width = integer(generator, 2, 6), integer(generator, 1, 4), integer(generator, 1, 8)
    mask = mask_of(generator, rows, width, least=integer(generator, 0, 1))
    mask[0, 0] = 1
    inputs = {
        "prompt_ids": torch.randint(1, VOCAB, (rows, prompt), generator=generator),
        "prompt_mask": mask_of(generator, rows, prompt).flip(1),
        "completion_ids": torch.randint(1, VOCAB, (rows, width), generator=generator) * mask,
        "completion_mask": mask,
        "advantages": normal(generator, rows),
        "num_items_in_batch": mask.sum() + integer(generator, 0, 9),
    }
    old = completion_logps(policy, inputs).detach()
    inputs["old_per_token_logps"] = old + 0.3 * normal(generator, rows, width)
    inputs["ref_per_token_logps"] = completion_logps(reference, inputs).detach()
    return inputs


def completion_logps(model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    return align.token_logps(model(ids).logits, ids)[:, -inputs["completion_ids"].shape[1] :]


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_grpo_loss_equals_trl_with_gradient(accelerator, loss_type):
    for generator in generators():
        policy, reference = Bigram(VOCAB, generator), Bigram(VOCAB, generator)
        inputs = grpo_inputs(generator, policy, reference)
        epsilon, epsilon_high = number(generator, 0.05, 0.3), number(generator, 0.05, 0.5)
        beta = number(generator, 0.01, 0.5) * integer(generator, 0, 1)
        trainer = bare(
            GRPOTrainer,
            model=policy,
            accelerator=accelerator,
            args=SimpleNamespace(use_bias_correction_kl=False, delta=None, report_to=[]),
            state=TrainerState(),
            loss_type=loss_type,
            epsilon_low=epsilon,
            epsilon_high=epsilon_high,
            beta=beta,
            temperature=1.0,
            model_kwarg_keys=set(),
            use_liger_kernel=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level="token",
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=12,
        )
        theirs = trainer.compute_loss(policy, inputs)
        logps, mask = completion_logps(policy, inputs), inputs["completion_mask"]
        ours = align.grpo_loss(
            logps,
            inputs["old_per_token_logps"],
            inputs["ref_per_token_logps"] if beta else None,
            inputs["advantages"],
            mask,
            epsilon,
            epsilon_high,
            beta,
            loss_type,
            max_length=12 if loss_type == "dr_grpo" else None,
            num_items=inputs["num_items_in_batch"].item() if loss_type == "dapo" else None,
        )
        same_gradients(ours, theirs, policy.table)
        if beta and mask.shape[1] > 1:  # of single tokens TRL logs the mean with padding
            k3 = align.masked_mean(align.kl_k3(logps, inputs["ref_per_token_logps"]), mask)
            assert trainer._metrics["train"]["kl"] == [pytest.approx(k3.item())]


class GivenCompletions(GRPOTrainer):
    """A GRPOTrainer whose completions are given instead of sampled; all that follows is TRL's."""

    def _generate(self, prompts):
        ids = [[1]] * len(prompts)
        return ids, ids, None, ["诗"] * len(prompts), len(prompts), None, {}


def scores(prompts, completions, score, **_):
    return score


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(WordLevel({"[PAD]": 0, "诗": 1}, unk_token="[PAD]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_advantages_equal_trl(accelerator, tokenizer, scale):
    fractions = set()
    for generator in generators():
        group_size, groups = integer(generator, 2, 8), integer(generator, 1, 5)
        levels = torch.tensor([0.0, 0.5, 1.0, 2.0, 2.7])[: integer(generator, 1, 5)]
        picks = torch.randint(len(levels), (groups * group_size,), generator=generator)
        rewards = levels[picks] if integer(generator, 0, 3) else normal(generator, len(picks)).float()
        policy = Bigram(VOCAB, generator)
        trainer = bare(
            GivenCompletions,
            model=policy,
            accelerator=accelerator,
            args=SimpleNamespace(
                per_device_train_batch_size=len(rewards),
                steps_per_generation=1,
                gradient_accumulation_steps=1,
                gradient_checkpointing_kwargs=None,
                report_to=[],
            ),
            processing_class=tokenizer,
            reward_funcs=[scores],
            reward_processing_classes=[None],
            reward_func_names=["scores"],
            reward_weights=torch.ones(1),
            multi_objective_aggregation="sum_then_normalize",
            scale_rewards=scale,
            num_generations=group_size,
            num_iterations=1,
            environments=None,
            mask_truncated_completions=False,
            pad_token_id=0,
            use_vllm=False,
            beta=0.0,
            state=TrainerState(),
            _logs={"prompt": [], "completion": [], "advantages": [], "rewards": {"scores": []}},
        )
        inputs = [{"prompt": "春", "score": reward} for reward in rewards.tolist()]
        theirs = trainer._generate_and_score_completions(inputs)["advantages"]
        same(align.grpo_advantages(rewards, group_size, scale), theirs)
        if scale != "batch":
            fraction = align.frac_reward_zero_std(rewards, group_size)
            assert trainer._metrics["train"]["frac_reward_zero_std"] == [pytest.approx(fraction)]
            fractions.add(fraction)
    assert scale == "batch" or {0.0, 1.0} < fractions


def test_equal_rewards_have_no_advantage():
    for scale in ("group", "batch", "none"):
        assert align.grpo_advantages(torch.full((8,), 2.5), 4, scale).abs().max() == 0
    assert align.frac_reward_zero_std(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2) == 0.5


def test_known_advantages():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    same(align.grpo_advantages(rewards, 4, "none"), torch.tensor([0.75, -0.25, -0.25, -0.25]))
    same(align.grpo_advantages(rewards, 4), torch.tensor([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4))


def test_first_step_of_grpo():
    """Before any update the loss is minus the mean advantage, 0 in whole groups, but its gradient isn't."""
    logps = torch.full((4, 3), -1.0, requires_grad=True)
    advantages = align.grpo_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 2)
    loss = align.grpo_loss(logps, logps.detach(), None, advantages, torch.ones(4, 3))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and logps.grad.abs().min() > 0


def test_averaging_differs_by_length():
    """A completion of one token and one of three; each token's loss is -advantage."""
    logps, mask = torch.zeros(2, 3), torch.tensor([[1, 0, 0], [1, 1, 1]])
    advantages = torch.tensor([-1.0, -2.0])
    losses = {
        kind: align.grpo_loss(logps, logps, None, advantages, mask, loss_type=kind, **more).item()
        for kind, more in {
            "grpo": {},
            "bnpo": {},
            "dapo": {"num_items": 14},
            "dr_grpo": {"max_length": 5},
        }.items()
    }
    assert losses == pytest.approx({"grpo": 1.5, "bnpo": 7 / 4, "dapo": 7 / 14, "dr_grpo": 7 / 10})


def grpo(**changed):
    """`grpo_loss` on a small valid input with one argument changed."""
    given = {
        "logps": torch.zeros(2, 3),
        "old_logps": torch.zeros(2, 3),
        "ref_logps": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "mask": torch.ones(2, 3),
    }
    return align.grpo_loss(**given | changed)


ROWS, ONES = torch.zeros(2, 3), torch.ones(2, 3)
NAN = torch.full((2, 3), math.nan)
LIVE = torch.zeros(2, 3, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.grpo_advantages(torch.zeros(10), 4), "10 条回答不能分成每组 4 条"),
        (lambda: align.grpo_advantages(torch.zeros(0), 4), "0 条回答不能"),
        (lambda: align.grpo_advantages(torch.zeros(4), 1), "每组.*至少 2 条"),
        (lambda: align.grpo_advantages(torch.tensor([0.0, math.nan]), 2), r"rewards 在位置 \(1,\) 的值是 nan"),
        (lambda: align.grpo_advantages(torch.zeros(4).long(), 2), "浮点数"),
        (lambda: align.grpo_advantages(torch.zeros(2, 2), 2), "rewards 的形状"),
        (lambda: align.grpo_advantages(torch.zeros(4), 2, "std"), "scale 应为"),
        (lambda: align.frac_reward_zero_std(torch.zeros(3), 2), "不能分成"),
        (lambda: grpo(old_logps=torch.zeros(2, 4)), r"形状 \(shape\) 不同"),
        (lambda: grpo(old_logps=LIVE), "old_logps 还连着计算图"),
        (lambda: grpo(advantages=torch.zeros(3)), "advantages"),
        (lambda: grpo(advantages=ROWS), "advantages 的形状"),
        (lambda: grpo(logps=NAN), "logps 在位置"),
        (lambda: grpo(logps=ROWS + 1000), "不是有限的数"),
        (lambda: grpo(mask=torch.zeros(2, 3)), "至少要有 1 个"),
        (lambda: grpo(mask=torch.ones(2, 4)), "mask 的形状"),
        (lambda: grpo(mask=ONES * 2), "mask 只能含 0 和 1"),
        (lambda: grpo(beta=-0.1), "beta 应大于 0"),
        (lambda: grpo(beta=0.1, ref_logps=None), "需要参考模型"),
        (lambda: grpo(beta=0.1, ref_logps=LIVE), "ref_logps 还连着"),
        (lambda: grpo(epsilon=0.0), "epsilon 应大于 0"),
        (lambda: grpo(epsilon=1.0), "epsilon 应小于 1"),
        (lambda: grpo(epsilon_high=-1.0), "epsilon_high 应大于 0"),
        (lambda: grpo(loss_type="ppo"), "loss_type 应为"),
        (lambda: grpo(loss_type="dr_grpo"), "dr_grpo 需要 max_length"),
        (lambda: grpo(loss_type="dr_grpo", max_length=2), "不小于最长的回答"),
        (lambda: grpo(loss_type="dapo", num_items=0), "num_items 应大于 0"),
        (lambda: grpo(beta=0.1, ref_logps=torch.zeros(2)), r"ref_logps 是 \(2,\)"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
