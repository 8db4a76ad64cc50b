"""The checks of lab 09 accept right answers in several spellings and name each known mistake."""

import math
import re

import pytest
import torch
from trl import GRPOConfig

from lab_utils import align
from lab_utils.checks import Check, grpo
from tests.checks.kit import assert_check


def correct_by_split(completions, answers):
    scores = []
    for text, answer in zip(completions, answers, strict=True):
        found = text.split("<answer>")[-1].split("</answer>")[0] if "<answer>" in text else ""
        scores.append(2.0 * (found.strip() == answer.strip()))
    return scores


def correct_by_pattern(completions, answers):
    def last(text):
        found = re.findall(r"(?s)<answer>\s*(.*?)\s*</answer>", text)
        return found[-1] if found else None

    return [2.0 if last(t) == a.strip() else 0.0 for t, a in zip(completions, answers, strict=True)]


def format_by_parts(completions):
    def fits(text):
        if not (text.startswith("<reasoning>") and text.endswith("</answer>")):
            return False
        parts = text[len("<reasoning>") : -len("</answer>")].split("</reasoning>\n<answer>")
        return len(parts) == 2 and all(part.strip() and "<" not in part for part in parts)

    return [0.5 if fits(text) else 0.0 for text in completions]


def format_without_angle_brackets(completions):
    pattern = r"<reasoning>[^<]+</reasoning>\n<answer>[^<]+</answer>"
    return [0.5 * bool(re.fullmatch(pattern, text)) for text in completions]


def rewards_in_a_loop(scores):
    rewards = []
    for score in scores:
        if score is None or math.isnan(score) or math.isinf(score):
            score = 0
        rewards.append(float(score))
    return rewards


def rewards_by_torch(scores):
    values = torch.tensor([math.nan if score is None else score for score in scores], dtype=torch.float64)
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).tolist()


def advantages_by_repeat(rewards, group_size):
    mean = rewards.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)
    std = rewards.view(-1, group_size).std(dim=1).repeat_interleave(group_size)
    return (rewards - mean) / (std + 1e-4)


def advantages_in_a_loop(rewards, group_size):
    parts = []
    for group in rewards.split(group_size):
        centred = group - group.sum() / group_size
        parts.append(centred / ((centred**2).sum().div(group_size - 1).sqrt() + 1e-4))
    return torch.cat(parts)


def zero_std_by_set(rewards, group_size):
    groups = [rewards[i : i + group_size].tolist() for i in range(0, len(rewards), group_size)]
    return sum(len(set(group)) == 1 for group in groups) / len(groups)


def zero_std_by_std(rewards, group_size):
    return torch.isclose(rewards.view(-1, group_size).std(1), torch.tensor(0.0)).float().mean().item()


def loss_in_a_loop(logps, old_logps, advantages, mask, epsilon):
    losses = []
    for new, old, advantage, keep in zip(logps, old_logps, advantages, mask.bool(), strict=True):
        ratio = (new[keep] - old[keep]).exp()
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        losses.append(-torch.min(ratio * advantage, clipped * advantage).sum() / max(1, len(ratio)))
    return torch.stack(losses)


def loss_by_max(logps, old_logps, advantages, mask, epsilon):
    ratio, a = torch.exp(logps - old_logps), advantages[:, None].expand_as(logps)
    losses = torch.max(-a * ratio, -a * ratio.clamp(1 - epsilon, 1 + epsilon)).masked_fill(mask == 0, 0)
    return losses.sum(-1) / mask.sum(-1).clamp(min=1)


def prompts_by_divmod(per_device_batch, devices, accumulation, num_generations):
    prompts, rest = divmod(per_device_batch * devices * accumulation, num_generations)
    return prompts if rest == 0 and num_generations >= 2 else 0


ACCEPTED = {
    grpo.CORRECTNESS_REWARD: [correct_by_split, correct_by_pattern],
    grpo.FORMAT_REWARD: [format_by_parts, format_without_angle_brackets],
    grpo.AS_REWARDS: [rewards_in_a_loop, rewards_by_torch],
    grpo.GROUP_ADVANTAGES: [advantages_by_repeat, advantages_in_a_loop],
    grpo.FRAC_REWARD_ZERO_STD: [zero_std_by_set, zero_std_by_std],
    grpo.GRPO_LOSS: [loss_in_a_loop, loss_by_max],
    grpo.PROMPTS_PER_STEP: [
        prompts_by_divmod,
        lambda b, d, a, n: b * d * a / n if n > 1 and math.gcd(b * d * a, n) == n else 0,
    ],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {v for v in vars(grpo).values() if isinstance(v, Check)} == set(ACCEPTED)


def test_the_mean_of_the_sequence_losses_is_grpos_loss():
    for case in grpo.GRPO_LOSS.cases:
        logps, old, advantages, mask, epsilon = case.args
        torch.testing.assert_close(
            grpo.grpo_loss(*case.args).mean(),
            align.grpo_loss(logps, old, None, advantages, mask, epsilon),
        )


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("generations", [1, 2, 3, 4, 6, 8])
def test_a_step_without_prompts_is_one_that_trl_refuses(tmp_path, accumulation, generations):
    settings = {
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": accumulation,
        "num_generations": generations,
    }

    def config():
        return GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **settings)

    prompts = grpo.prompts_per_step(6, 1, accumulation, generations)
    if prompts:
        assert config().generation_batch_size == prompts * generations
    else:
        with pytest.raises(ValueError, match="num_generations|at least 2 generations"):
            config()
