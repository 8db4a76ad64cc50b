"""Training in the open: what a lab wants to look into, and what stands around TRL's trainers. ms-swift has `swift`.

`loop`          supervised fine-tuning in one plain torch loop
`preference`    the policy that preference methods start from, and the log-probabilities it gives to answers
`reward_model`  a reward model on the language model's own head
`grpo`          rows for TRL's GRPO, poems kept on the way
`history`       a trainer's log as a table
"""

__all__ = ["grpo", "history", "loop", "preference", "reward_model"]
