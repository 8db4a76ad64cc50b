"""A reward model on the language model's own head: what a policy's adapter has made likelier is rewarded.

`LikelihoodReward` is what TRL's RewardTrainer trains and its PPOTrainer asks; `TokenScores` is its body.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from lab_utils.align import token_logps


class TokenScores(nn.Module):
    """Running sum over an answer of log p - log p_ref: `policy` with its LoRA adapter, and without."""

    def __init__(self, policy, header: list[int]):
        super().__init__()
        self.policy, self.header = policy, header

    def forward(self, input_ids, attention_mask, position_ids=None, **_) -> BaseModelOutput:
        """`hidden_states[-1]`: (batch, seq, 1) float32, the sum up to each token.

        input_ids, attention_mask: (batch, seq). The answer follows the second turn's `header`, the tokens
        of "<|im_start|>assistant" and a line break; the prompt, and padding on either side, add nothing.
        Other arguments are ignored.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        with torch.no_grad(), self.policy.disable_adapter():
            reference = token_logps(self.policy(**inputs).logits, input_ids)
        gained = token_logps(self.policy(**inputs).logits, input_ids) - reference
        begun = (input_ids == self.header[0]).cumsum(1) >= 2
        answer = begun.roll(len(self.header), 1) & begun & attention_mask.bool()
        sums = (gained * answer[:, 1:]).cumsum(1)
        return BaseModelOutput(hidden_states=(nn.functional.pad(sums, (1, 0)).unsqueeze(-1),))


class LikelihoodReward(nn.Module):
    """A reward model on the language model's own head: r(x, y) = log p(y|x) - log p_ref(y|x).

    `forward` gives `logits` (batch, 1), as a sequence classifier of one label does, for TRL's
    RewardTrainer; `base_model_prefix` and `score` are what its PPOTrainer asks of a reward model.
    The form is that of Rafailov et al. 2023, eq. 5, with beta 1 and without the term in x alone.
    """

    base_model_prefix = "tokens"

    def __init__(self, policy, tokenizer):
        super().__init__()
        self.tokens = TokenScores(policy, tokenizer("<|im_start|>assistant\n").input_ids)
        self.score = nn.Identity()
        self.config = policy.get_base_model().config
        self.config.num_labels = 1

    def forward(self, input_ids, attention_mask, **_) -> SequenceClassifierOutput:
        """The reward of each answer, `logits` (batch, 1) float32. input_ids, attention_mask: (batch, seq)."""
        return SequenceClassifierOutput(
            logits=self.tokens(input_ids, attention_mask).hidden_states[-1][:, -1]
        )

    def add_model_tags(self, tags) -> None:
        """TRL labels the models it trains; there is no model card here to put `tags` on."""
