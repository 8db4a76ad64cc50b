"""KL estimators, GAE, PPO and GRPO equal TRL's installed code on random batches; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerState
from trl import GRPOTrainer
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo import ppo_trainer as trl_ppo

from lab_utils import align
from tests.align.trl_code import (
    Bigram,
    bare,
    generators,
    integer,
    normal,
    number,
    same,
    same_gradients,
    statements,
)

VOCAB = 7


def mask_of(generator, rows, width, least=1):
    """1 up to a random length, 0 after it."""
    lengths = torch.tensor([integer(generator, least, width) for _ in range(rows)])
    return (torch.arange(width) < lengths.unsqueeze(1)).long()


def test_masked_mean_and_whiten_equal_trl():
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        values, mask = normal(generator, rows, width) * 3, mask_of(generator, rows, width, least=2)
        same(align.masked_mean(values, mask), trl_ppo.masked_mean(values, mask))
        same(align.masked_mean(values, mask, 1), trl_ppo.masked_mean(values, mask, 1))
        for shift in (True, False):
            same(align.whiten(values, mask, shift), trl_ppo.masked_whiten(values, mask, shift))


@pytest.mark.parametrize(("name", "ours"), [("k1", align.kl_k1), ("k3", align.kl_k3)])
def test_kl_equals_ppo_trainer(name, ours):
    trl = statements(PPOTrainer.train, "logr = ref_logprobs", "kl = ")
    for generator in generators():
        logps, ref_logps = normal(generator, 2, integer(generator, 1, 5), 6)
        names = {"logprobs": logps, "ref_logprobs": ref_logps, "args": SimpleNamespace(kl_estimator=name)}
        same(ours(logps, ref_logps), trl(names)["kl"])


def test_k2_equals_ppo_trainers_approxkl():
    trl = statements(PPOTrainer.train, "approxkl = ", "approxkl = ")
    for generator in generators():
        logps, ref_logps = normal(generator, 2, 3, 6)
        same(align.kl_k2(logps, ref_logps).mean(), trl({"logprobs_diff": logps - ref_logps})["approxkl"])


def test_gae_equals_ppo_trainer():
    trl = statements(PPOTrainer.train, "lastgaelam = 0", "advantages = torch.masked_fill")
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        mask = mask_of(generator, rows, width, least=2)
        rewards, values = normal(generator, rows, width) * mask, normal(generator, rows, width) * mask
        gamma, lam = number(generator, 0.5, 1.0), number(generator, 0.0, 1.0)
        scope = trl(
            {
                "responses": mask,
                "rewards": rewards,
                "values": values,
                "args": SimpleNamespace(gamma=gamma, lam=lam),
                "padding_mask": mask == 0,
            }
        )
        advantages, returns = align.gae(rewards, values, gamma, lam)
        same(returns, scope["returns"])
        same(align.whiten(advantages, mask) * mask, scope["advantages"])


def test_ppo_losses_equal_ppo_trainer_with_gradients():
    trl = statements(PPOTrainer.train, "vpredclipped = ", "loss = pg_loss")
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        mask, value_mask = mask_of(generator, rows, width), mask_of(generator, rows, width)
        old, old_values, returns, advantages = normal(generator, 4, rows, width)
        logps = (old + 0.3 * normal(generator, rows, width)).requires_grad_()
        values = (old_values + 0.4 * normal(generator, rows, width)).requires_grad_()
        epsilon, value_epsilon = number(generator, 0.05, 0.4), number(generator, 0.05, 0.4)
        scope = trl(
            {
                "vpred": values,
                "mb_values": old_values,
                "mb_return": returns,
                "new_logprobs": logps,
                "mb_logprobs": old,
                "mb_advantage": advantages,
                "padding_mask": mask == 0,
                "padding_mask_p1": value_mask == 0,
                "micro_batch_inds": slice(None),
                "args": SimpleNamespace(cliprange=epsilon, cliprange_value=value_epsilon, vf_coef=0.1),
            }
        )
        policy_loss = align.ppo_policy_loss(logps, old, advantages, mask, epsilon)
        value_loss = align.ppo_value_loss(values, old_values, returns, value_mask, value_epsilon)
        same(policy_loss, scope["pg_loss"])
        same(value_loss, scope["vf_loss"])
        same_gradients(policy_loss + 0.1 * value_loss, scope["loss"], logps, values)


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


def test_kl_estimators_on_average_are_the_kl():
    generator = torch.Generator().manual_seed(0)
    logps, ref_logps = normal(generator, 2, 9).log_softmax(-1)
    kl = torch.nn.functional.kl_div(ref_logps, logps, log_target=True, reduction="sum")
    for unbiased in (align.kl_k1, align.kl_k3):
        same((logps.exp() * unbiased(logps, ref_logps)).sum(), kl)
    assert (align.kl_k1(logps, ref_logps) < 0).any()
    assert (align.kl_k2(logps, ref_logps) >= 0).all() and (align.kl_k3(logps, ref_logps) >= 0).all()
    assert all(kl(logps, logps).abs().max() == 0 for kl in (align.kl_k1, align.kl_k2, align.kl_k3))


def test_gae_with_lambda_one_is_the_discounted_return_minus_the_value():
    rewards, values = normal(torch.Generator().manual_seed(1), 2, 3, 6)
    discounted = [
        [sum(0.9**k * row[t + k] for k in range(6 - t)) for t in range(6)] for row in rewards.tolist()
    ]
    advantages, returns = align.gae(rewards, values, gamma=0.9, lam=1.0)
    same(returns, torch.tensor(discounted, dtype=torch.float64))
    same(advantages, torch.tensor(discounted, dtype=torch.float64) - values)


def test_gae_with_lambda_zero_is_the_td_error():
    rewards, values = normal(torch.Generator().manual_seed(2), 2, 3, 6)
    advantages, _ = align.gae(rewards, values, gamma=0.9, lam=0.0)
    same(advantages[:, :-1], rewards[:, :-1] + 0.9 * values[:, 1:] - values[:, :-1])
    same(advantages[:, -1], rewards[:, -1] - values[:, -1])


def test_clipping_stops_the_gradient_only_where_it_should():
    """Beyond the clip nothing more is to be gained, but a way back is always open."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    objective = align.clipped_objective(ratio, advantages, 0.2)
    same(objective, torch.tensor([1.2, -1.5, 0.5, -0.8, 1.1]))
    objective.sum().backward()
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0, 1.0]


def test_clip_higher_moves_only_the_upper_side():
    ratio = torch.tensor([1.5, 0.5])
    same(align.clipped_objective(ratio, torch.tensor([1.0, -1.0]), 0.2, 0.4), torch.tensor([1.4, -0.8]))


def test_whitened_has_mean_zero_and_variance_one():
    values, mask = torch.arange(8.0).view(2, 4) ** 2, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    kept = align.whiten(values, mask)[mask.bool()]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6) and kept.std().item() == pytest.approx(1)


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


ROWS, NAN = torch.zeros(2, 3), torch.full((2, 3), math.nan)
LIVE = torch.zeros(2, 3, requires_grad=True)
ONES = torch.ones(2, 3)


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
        *[(lambda kl=kl: kl(ROWS, torch.zeros(3)), r"ref_logps 是 \(3,\)") for kl in (align.kl_k1, align.kl_k2, align.kl_k3)],
        (lambda: align.kl_k3(ROWS, NAN), "ref_logps 在位置"),
        (lambda: align.gae(ROWS, torch.zeros(2, 4)), "形状"),
        (lambda: align.gae(ROWS, NAN), "values 在位置"),
        (lambda: align.gae(ROWS, ROWS, gamma=1.1), "gamma 应在"),
        (lambda: align.gae(ROWS, ROWS, lam=-0.1), "lam 应在"),
        (lambda: align.ppo_policy_loss(ROWS, LIVE, ROWS, ONES, 0.2), "old_logps 还连着"),
        (lambda: align.ppo_policy_loss(ROWS, ROWS, torch.zeros(2), ONES, 0.2), "advantages 的形状"),
        (lambda: align.ppo_value_loss(ROWS, ROWS, LIVE, ONES, 0.2), "returns 还连着"),
        (lambda: align.ppo_value_loss(ROWS, ROWS, ROWS, ONES, 0.0), "epsilon"),
        (lambda: align.masked_mean(ROWS, torch.tensor([[1, 1, 1], [0, 0, 0]]), 1), "一行全是 0"),
        (lambda: align.whiten(torch.zeros(1, 2), torch.tensor([[1, 0]])), "至少要有 2 个"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
