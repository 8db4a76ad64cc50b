"""The policy folder and the log-probabilities of answers that the preference lab stands on."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lab_utils import models
from lab_utils.data.loss_mask import IGNORE
from lab_utils.errors import InvalidValue
from lab_utils.training.preference import answer_logps, collate, kl_on_samples, pair_logps, save_policy

POEMS = ("春风吹酒醒，不是爱山人。", "明月照高楼，流光正徘徊。上有愁思妇，悲叹有余哀。")


def say(text: str) -> list[dict]:
    return [{"role": "user", "content": "写一首诗"}, {"role": "assistant", "content": text}]


def pair(chosen: str, rejected: str) -> dict:
    (prompt, good), (_, bad) = say(chosen), say(rejected)
    return {"prompt": [prompt], "chosen": [good], "rejected": [bad]}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = save_policy(tmp_path_factory.mktemp("policy") / "sft", models.SHIPPED, models.shipped_adapter())
    return folder, *models.load(str(folder))


def by_hand(model, tokenizer, messages) -> float:
    """Log-probability of the answer of one conversation, token by token, without padding."""
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logps[i - 1, ids[i]].item() for i in range(len(prompt), len(ids)))


def test_saved_policy_is_the_adapted_model(policy):
    folder, merged, tokenizer = policy
    adapted, _ = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    ids = torch.tensor([tokenizer.apply_chat_template(say(POEMS[0]), return_dict=False)])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-3, rtol=0)
    assert not (folder / "adapter_config.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["sft"]


def test_saving_again_replaces_the_folder(policy, tmp_path):
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "stale.txt").write_text("old")
    save_policy(folder, models.SHIPPED, models.shipped_adapter())
    assert (folder / "model.safetensors").exists() and not (folder / "stale.txt").exists()


def test_a_failed_save_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "kept.txt").write_text("old")
    with pytest.raises(ValueError, match="适配器"):
        save_policy(folder, models.SHIPPED, tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["sft"] and (folder / "kept.txt").exists()


def test_collate_pads_on_the_right_and_labels_only_answers(policy):
    _, _, tokenizer = policy
    ids, labels = collate(tokenizer, [say(POEMS[0]), say(POEMS[1])])
    assert ids.shape == labels.shape and ids.dtype == torch.int64
    shown = [tokenizer.decode(row[mask]) for row, mask in zip(ids, labels != IGNORE, strict=True)]
    assert shown == [f"{poem}<|im_end|>\n" for poem in POEMS]
    assert ids[0, -1] == tokenizer.pad_token_id and labels[0, -1] == IGNORE


def test_collate_refuses_what_has_no_answer(policy):
    _, _, tokenizer = policy
    with pytest.raises(InvalidValue, match="第 2 行没有要学习的词元"):
        collate(tokenizer, [say(POEMS[0]), say(POEMS[0])[:1]])
    with pytest.raises(InvalidValue, match="没有数据行"):
        collate(tokenizer, [])


@pytest.mark.parametrize("batch_size", [1, 2, 40])
def test_answer_logps_are_those_by_hand(policy, batch_size):
    _, model, tokenizer = policy
    said = [say(POEMS[1]), say(POEMS[0]), say("雪。")]
    expected = [by_hand(model, tokenizer, messages) for messages in said]
    found = answer_logps(model, tokenizer, said, batch_size=batch_size)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=0)


def test_pair_logps_keeps_the_sides_apart(policy):
    _, model, tokenizer = policy
    chosen, rejected = pair_logps(model, tokenizer, [pair(*POEMS), pair(*POEMS[::-1])])
    torch.testing.assert_close(chosen, rejected.flip(0), atol=1e-3, rtol=0)
    assert chosen[0] > chosen[1]  # the shorter poem is likelier


def test_adapter_off_is_the_policy_it_stands_on(policy):
    folder, model, tokenizer = policy
    fresh, _ = models.load(str(folder))
    tuned = get_peft_model(fresh, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.train()
    said = [say(poem) for poem in POEMS]
    reference = answer_logps(model, tokenizer, said)
    off = answer_logps(tuned, tokenizer, said, adapter=False)
    torch.testing.assert_close(off, reference, atol=1e-3, rtol=0)
    assert (answer_logps(tuned, tokenizer, said) - reference).abs().min() > 0.1
    assert tuned.training


def test_kl_of_a_policy_to_itself_is_zero_and_to_another_is_not(policy):
    _, model, tokenizer = policy
    base, _ = models.load(models.SHIPPED)
    questions = [{"messages": say("")[:1]}] * 2
    assert kl_on_samples(model, model, tokenizer, questions, POEMS) == 0.0
    expected = answer_logps(model, tokenizer, list(map(say, POEMS)))
    expected = expected - answer_logps(base, tokenizer, list(map(say, POEMS)))
    assert kl_on_samples(model, base, tokenizer, questions, POEMS) == pytest.approx(expected.mean().item())
    with pytest.raises(ValueError):
        kl_on_samples(model, base, tokenizer, questions, POEMS[:1])
