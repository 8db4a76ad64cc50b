"""The plain loop takes the steps that AdamW takes, sees every row once an epoch, and stops before it spoils a model."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lab_utils.data.batches import collate, encode_rows
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.loss import answer_loss, held_out_loss
from lab_utils.training import loop
from tests.data.rows import POEMS


@pytest.fixture(scope="module")
def examples(tokenizer):
    return encode_rows(tokenizer, POEMS)


@pytest.fixture
def model(tiny_qwen3):
    return tiny_qwen3(tie_word_embeddings=True).eval()


def values(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_training_learns_the_rows_and_the_seed_decides(model, examples):
    again, other = copy.deepcopy(model), copy.deepcopy(model)
    before = held_out_loss(model, examples)
    losses = loop.train(model, examples, 60, 1e-2, batch_size=2, progress=False)
    assert before == pytest.approx(math.log(5928), abs=0.5) and len(losses) == 60
    assert held_out_loss(model, examples) < before / 4
    assert loop.train(again, examples, 60, 1e-2, batch_size=2, progress=False) == losses
    assert loop.train(other, examples, 60, 1e-2, 2, seed=1, progress=False) != losses


def test_one_step_is_adamw_on_the_clipped_gradient(model, examples):
    mine = copy.deepcopy(model)
    loop.train(mine, examples, 1, 1e-3, batch_size=4, progress=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    model(**collate(examples, pad_id=0)).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    for name, value in values(model).items():
        torch.testing.assert_close(values(mine)[name], value, rtol=0, atol=2e-5, msg=name)


def test_the_rate_rises_then_falls_to_zero():
    factors = [loop.rate_factor(step, 100) for step in range(101)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[52] == pytest.approx(48 / 95) and factors[100] == 0
    assert factors[5:] == sorted(factors[5:], reverse=True) and len(set(factors[5:])) == len(factors[5:])
    assert loop.rate_factor(0, 1) == 1


def test_only_what_requires_grad_is_trained_also_of_an_adapter(model, examples):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = values(adapted)
    loop.train(adapted, examples, 3, 1e-2, progress=False)
    changed = {name for name, value in values(adapted).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own(model, examples):
    seen = []

    def loss_of(model, batch):
        seen.append(
            [
                tuple(row[mask.bool()].tolist())
                for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
        )
        return answer_loss(model, batch)

    loop.train(model, examples, 20, 1e-3, batch_size=3, progress=False, loss_of=loss_of)
    assert [len(batch) for batch in seen] == [3, 1] * 10
    epochs = [tuple(seen[i] + seen[i + 1]) for i in range(0, 20, 2)]
    assert all(set(epoch) == {tuple(ids) for ids, _ in examples} for epoch in epochs)
    assert len(set(epochs)) > 5


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_given_back_and_no_gradient_is_left(model, examples, mode):
    model.train(mode)
    modes = []

    def loss_of(model, batch):
        modes.append(model.training)
        return answer_loss(model, batch)

    loop.train(model, examples, 1, 1e-3, progress=False, loss_of=loss_of)
    held_out_loss(model, examples)
    assert modes == [True] and model.training is mode
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_lost(model, examples):
    seen = []

    def loss_of(model, batch):
        seen.append(values(model))
        loss = answer_loss(model, batch)
        return loss * float("nan") if len(seen) == 3 else loss

    with pytest.raises(loop.TrainingDiverged, match=r"第 3 步的损失是 nan.*learning_rate=0\.01"):
        loop.train(model, examples, 5, 1e-2, progress=False, loss_of=loss_of)
    assert len(seen) == 3 and not model.training
    assert all(torch.equal(value, seen[2][name]) for name, value in values(model).items())


def test_a_gradient_that_is_not_finite_stops_it_too(model, examples):
    def loss_of(model, batch):
        loss = answer_loss(model, batch)
        return loss + torch.sqrt(0 * loss)  # 0 to add, but of slope infinite

    before = values(model)
    with pytest.raises(loop.TrainingDiverged, match="第 1 步.*梯度范数是 nan"):
        loop.train(model, examples, 5, 1e-2, progress=False, loss_of=loss_of)
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())


def test_progress_is_ten_lines_or_none(model, examples, capsys):
    loop.train(model, examples, 25, 1e-3)
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 10 and lines[0].startswith("第 3/25 步，损失 ") and lines[-1].startswith("第 25/25 步")
    )
    loop.train(model, examples, 3, 1e-3, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"batch_size": -1}, "batch_size"),
        ({"examples": []}, "examples"),
    ],
)
def test_bad_settings_are_refused(model, examples, settings, message):
    with pytest.raises(InvalidValue, match=message):
        loop.train(model, **{"examples": examples, "steps": 1, "learning_rate": 1e-3, **settings})


def test_a_model_with_nothing_to_train_is_refused(model, examples):
    with pytest.raises(InvalidValue, match="可训练的参数"):
        loop.train(model.requires_grad_(False), examples, 1, 1e-3)
