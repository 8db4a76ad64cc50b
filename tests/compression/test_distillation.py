"""A student of fewer layers, and the loss that it learns by."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from lab_utils import compression
from lab_utils.training import loop
from tests.compression.tiny_logits import IDS, logits, random_examples


def test_a_student_of_all_layers_is_the_teacher(untouched):
    assert torch.equal(logits(compression.student_of(untouched, [0, 1, 2])), logits(untouched))


def test_a_student_is_the_teacher_without_the_layers_left_out(untouched, tmp_path):
    student = compression.student_of(untouched, [0, 2])
    shorter = copy.deepcopy(untouched)
    del shorter.model.layers[1]
    shorter.config.num_hidden_layers = 2
    with torch.no_grad():
        expected = shorter(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(logits(student), expected)
    longer = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached, uncached = (student.generate(IDS, use_cache=use, **longer) for use in (True, False))
    assert torch.equal(cached, uncached)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(student))


@pytest.mark.parametrize("layers", [[], [0, 0], [2, 0], [3], [-1, 0]])
def test_layers_that_make_no_student_are_refused(untouched, layers):
    with pytest.raises(ValueError, match="0 到 2 之间"):
        compression.student_of(untouched, layers)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_t_squared_kl_by_hand(temperature):
    student, teacher = gaussian(5, 7), gaussian(5, 7, seed=1)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = (torch.exp(x / temperature) / torch.exp(x / temperature).sum() for x in (t, s))
        total += sum(float(a * (a.log() - b.log())) for a, b in zip(p, q, strict=True))
    found = compression.distillation_loss(student, teacher, temperature=temperature)
    assert found.item() == pytest.approx(temperature**2 * total / 5)


def test_the_gradient_at_temperature_one_is_the_difference_of_probabilities():
    student, teacher = gaussian(5, 7).requires_grad_(), gaussian(5, 7, seed=1)
    compression.distillation_loss(student, teacher, temperature=1.0).backward()
    torch.testing.assert_close(student.grad, (student.softmax(-1) - teacher.softmax(-1)).detach() / 5)


def test_hot_logits_are_matched_whatever_the_temperature():
    """Hinton et al., eq. 4: at high T the gradient tends to (z − v)/N for logits of mean zero; T² keeps its size."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (gaussian(1, 7), gaussian(1, 7, seed=1)))
    student.requires_grad_()
    compression.distillation_loss(student, teacher, temperature=1e4).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 7, rtol=1e-3, atol=1e-4)


def test_equal_logits_cost_nothing():
    student = gaussian(5, 7).requires_grad_()
    loss = compression.distillation_loss(student, student.detach().clone() + 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and student.grad.abs().max() < 1e-12


def test_places_without_a_label_are_left_out_and_hard_labels_mixed_in():
    student, teacher = gaussian(4, 7), gaussian(4, 7, seed=1)
    labels = torch.tensor([3, -100, 0, -100])
    kept = [0, 2]
    soft = compression.distillation_loss(student[kept], teacher[kept])
    hard = torch.nn.functional.cross_entropy(student[kept], labels[kept])
    for weight in (0.0, 0.3, 1.0):
        found = compression.distillation_loss(student, teacher, labels, hard_weight=weight)
        torch.testing.assert_close(found, (1 - weight) * soft + weight * hard)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_logits": torch.zeros(4, 8)}, r"\(4, 7\) 与 \(4, 8\).*同一个分词器"),
        ({"temperature": 0}, "温度"),
        ({"temperature": float("nan")}, "温度"),
        ({"hard_weight": 1.5, "labels": torch.zeros(4, dtype=torch.long)}, "hard_weight"),
        ({"hard_weight": 0.5}, "要给出 labels"),
    ],
)
def test_bad_arguments_of_the_loss_are_refused(arguments, message):
    given = {"student_logits": torch.zeros(4, 7), "teacher_logits": torch.zeros(4, 7), **arguments}
    with pytest.raises(ValueError, match=message):
        compression.distillation_loss(**given)


def test_distillation_brings_the_student_nearer_to_the_teacher(tiny, untouched):
    student = tiny(seed=1)
    before = copy.deepcopy(student.state_dict())
    *examples, unseen = random_examples(129)
    taught = compression.distill(untouched, student, examples, 80, 1e-2, progress=False)
    ids, labels = (torch.tensor([part]) for part in unseen)
    with torch.no_grad():
        wanted, *given = (model(input_ids=ids).logits[0, :-1] for model in (untouched, student, taught))
    far, near = (compression.distillation_loss(each, wanted, labels[0, 1:]).item() for each in given)
    assert near < far / 2
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_with_hard_labels_alone_it_is_ordinary_training(untouched):
    student = compression.student_of(untouched, [1])
    examples = random_examples()
    taught = compression.distill(
        untouched, student, examples, 7, 1e-2, batch_size=4, hard_weight=1.0, seed=3, progress=False
    )
    loop.train(student, examples, 7, 1e-2, batch_size=4, seed=3, progress=False)
    torch.testing.assert_close(logits(taught), logits(student))


def test_poems_are_given_as_the_base_met_them(shipped, rows):
    _, tokenizer = shipped
    row = rows[0]
    ((ids, labels),) = compression.poem_examples(tokenizer, [row])
    poem = row["messages"][-1]["content"]
    assert tokenizer.decode(ids) == f"{row['form']}《{row['theme']}》\n{poem}<|endoftext|>"
    assert tokenizer.decode([label for label in labels if label != -100]) == f"{poem}<|endoftext|>"
    with pytest.raises(ValueError, match="没有数据行"):
        compression.poem_examples(tokenizer, [])
