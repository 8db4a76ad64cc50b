"""The reward on the language model's own head is a difference of log-probabilities, for TRL's PPO too."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lab_utils import models
from lab_utils.training.preference import answer_logps
from lab_utils.training.reward_model import LikelihoodReward

TALKS = [
    [{"role": "user", "content": f"以“{theme}”为题写五言绝句一首。"}, {"role": "assistant", "content": poem}]
    for theme, poem in (
        ("秋夜", "霜落千山静，江空一雁飞。"),
        ("春江", "春水绕孤村，\n东风入酒樽。不知人去后，花落几黄昏。"),
    )
]


@pytest.fixture(scope="module")
def rewarder():
    model, tokenizer = models.load(models.SHIPPED)
    torch.manual_seed(0)
    policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    return LikelihoodReward(policy, tokenizer).eval(), tokenizer


@pytest.fixture(scope="module")
def moved(rewarder):
    """The same with an adapter that isn't zero."""
    reward, tokenizer = rewarder
    with torch.no_grad():
        for name, weight in reward.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    yield reward, tokenizer
    with torch.no_grad():
        for name, weight in reward.named_parameters():
            if "lora_B" in name:
                weight.zero_()


def padded(tokenizer, side="right", end=""):
    """TALKS as ids that stop at the end token, then `end`."""
    texts = [tokenizer.apply_chat_template(talk, tokenize=False).rstrip("\n") + end for talk in TALKS]
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)


def rewards_of(reward, inputs):
    with torch.no_grad():
        return reward(inputs.input_ids, inputs.attention_mask).logits


def test_untrained_reward_is_zero(rewarder):
    reward, tokenizer = rewarder
    assert torch.equal(rewards_of(reward, padded(tokenizer)), torch.zeros(2, 1))


def test_equals_difference_of_log_probs(moved):
    reward, tokenizer = moved
    policy = reward.tokens.policy
    want = answer_logps(policy, tokenizer, TALKS)
    want = want - answer_logps(policy, tokenizer, TALKS, adapter=False)
    got = rewards_of(reward, padded(tokenizer, end="\n"))[:, 0]  # `answer_logps` counts the line break too
    assert got.abs().min() > 0.1
    assert torch.allclose(got, want, atol=1e-4)


def test_padding_side_does_not_matter(moved):
    reward, tokenizer = moved
    right = rewards_of(reward, padded(tokenizer))
    inputs = padded(tokenizer, "left")
    positions = inputs.attention_mask.cumsum(1) - inputs.attention_mask
    with torch.no_grad():
        sums = reward.tokens(inputs.input_ids, inputs.attention_mask, positions).hidden_states[-1]
    assert torch.allclose(sums[:, -1], right, atol=1e-4)


def test_ppo_reads_the_same_score(moved):
    from trl.experimental.utils import get_reward

    reward, tokenizer = moved
    inputs = padded(tokenizer)
    with torch.no_grad():
        _, got, _ = get_reward(reward, inputs.input_ids, tokenizer.pad_token_id, 20)
    assert torch.allclose(got, rewards_of(reward, inputs)[:, 0], atol=1e-4)


def test_only_the_adapter_learns(rewarder):
    reward, tokenizer = rewarder
    inputs = padded(tokenizer)
    chosen, rejected = reward(inputs.input_ids, inputs.attention_mask).logits[:, 0]
    torch.nn.functional.softplus(rejected - chosen).backward()
    touched = {name for name, weight in reward.named_parameters() if weight.grad is not None}
    assert touched and all("lora_" in name for name in touched)
    assert any(weight.grad.abs().max() > 0 for weight in reward.parameters() if weight.grad is not None)
