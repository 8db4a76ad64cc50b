"""TRL and ms-swift call every reward, and score as we do."""

import json
import math

from lab_utils.verse import FORMS, themes
from tests.rewards.samples import COLUMNS, EVERY, MOON, POEM, RIGHT


def test_trl_calls_every_reward_and_logs_it_by_name(tmp_path, tiny_qwen3, train_grpo):
    from datasets import Dataset

    prompt = [{"role": "user", "content": "写一首五言绝句"}]
    data = Dataset.from_list(
        [
            {"prompt": prompt, "answer": "3", "form": "五言绝句", "theme": theme}
            for theme in themes("reward")[:2]
        ]
    )
    trainer = train_grpo(tiny_qwen3(), EVERY, data, tmp_path, 1)
    logged = trainer.state.log_history[0]
    for function in EVERY:
        assert math.isfinite(logged[f"rewards/{function.__name__}/mean"])


def test_swift_scores_completions_as_we_do(tmp_path, plugin):
    import torch
    from swift.dataset import load_dataset
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    texts = [RIGHT, POEM, MOON, "", "<answer>3</answer>", POEM[:12]]
    rows = [
        {"messages": [{"role": "user", "content": str(i)}], "answer": str(i), "form": form, "theme": "秋夜"}
        for i, form in zip(range(6), list(FORMS) * 2, strict=False)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    loaded, _ = load_dataset(str(path), remove_unused_columns=False, load_from_cache_file=False)
    samples = [GRPOSample.from_row(dict(row)) for row in loaded]
    for sample, text in zip(samples, texts, strict=True):
        sample.messages = [*sample.messages, {"role": "assistant", "content": text}]
    functions = [plugin[f.__name__](args=None) for f in EVERY]
    assert [type(f).__name__ for f in functions] == [f.__name__ for f in EVERY]
    found = compute_rewards_per_func(samples, functions, None, torch.device("cpu"))
    given = {name: [row[name] for row in rows] for name in COLUMNS}
    ours = torch.tensor([f(texts, **given) for f in EVERY]).T
    torch.testing.assert_close(found, ours, rtol=0, atol=0)
