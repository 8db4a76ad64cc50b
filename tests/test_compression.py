import copy
import math

import pytest
import torch
from torch.nn.utils import prune
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lab_utils import compression, course, lowrank, models
from lab_utils.data import jsonl
from lab_utils.evaluation.loss import held_out_loss
from lab_utils.training import loop

IDS = torch.arange(24).reshape(2, 12) % 20


def tiny(seed=0, **settings):
    """A Qwen3 of three layers with 24 neurons each, on 20 tokens."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.2,
        **settings,
    )
    return Qwen3ForCausalLM(config).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def random_examples(count=6):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (count, 9), generator=generator).tolist()
    return [(ids, [-100, -100, *ids[2:]]) for ids in rows]


@pytest.fixture
def untouched():
    """A model that must come out of the test as it went in."""
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    yield model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.config.intermediate_size, model.config.num_hidden_layers) == (24, 3)


@pytest.fixture(scope="module")
def shipped():
    return models.load(models.SHIPPED)


@pytest.fixture(scope="module")
def rows():
    return jsonl.read_jsonl(course.root() / "datasets" / "verse_sft" / "train.jsonl")[:12]


# ── pruning ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_magnitude_pruning_is_torch_s(untouched, share):
    pruned = compression.prune_magnitude(untouched, share)
    expected = copy.deepcopy(untouched)
    for name in lowrank.linear_weights(expected):
        prune.l1_unstructured(expected.get_submodule(name.removesuffix(".weight")), "weight", share)
    for name, weight in lowrank.linear_weights(pruned).items():
        assert torch.equal(weight, expected.get_submodule(name.removesuffix(".weight")).weight)
        assert int((weight == 0).sum()) == round(share * weight.numel())
    assert torch.equal(pruned.lm_head.weight, untouched.lm_head.weight)
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight


def test_neurons_that_do_nothing_are_the_ones_pruned(untouched, tmp_path):
    lazy = copy.deepcopy(untouched)
    idle = torch.arange(24) % 3 == 0  # 8 of 24
    with torch.no_grad():
        for layer in lazy.model.layers:
            layer.mlp.down_proj.weight[:, idle] = 0
    smaller = compression.prune_neurons(lazy, 1 / 3)
    torch.testing.assert_close(logits(smaller), logits(lazy))
    for layer in smaller.model.layers:
        assert layer.mlp.gate_proj.weight.shape == layer.mlp.up_proj.weight.shape == (16, 16)
        assert layer.mlp.down_proj.weight.shape == (16, 16)
    removed = 3 * 3 * 8 * 16  # layers, matrices, neurons, width
    assert smaller.num_parameters() == lazy.num_parameters() - removed
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(smaller)) and loaded.config.intermediate_size == 16


def test_the_neurons_kept_have_the_largest_norms(untouched):
    smaller = compression.prune_neurons(untouched, 0.5)
    for old, new in zip(untouched.model.layers, smaller.model.layers, strict=True):
        gate, up, down = (getattr(old.mlp, f"{name}_proj").weight.detach() for name in ("gate", "up", "down"))
        score = [float(gate[j].norm() * up[j].norm() * down[:, j].norm()) for j in range(24)]
        kept = sorted(sorted(range(24), key=score.__getitem__)[12:])
        assert torch.equal(new.mlp.gate_proj.weight, gate[kept])
        assert torch.equal(new.mlp.up_proj.weight, up[kept])
        assert torch.equal(new.mlp.down_proj.weight, down[:, kept])


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, 50, float("nan")])
def test_a_share_out_of_range_is_refused(untouched, share):
    for function in (compression.prune_magnitude, compression.prune_neurons):
        with pytest.raises(ValueError, match="剪掉的份额.*0 与 1 之间"):
            function(untouched, share)


def test_pruning_every_neuron_or_none_there_is_refused(untouched):
    with pytest.raises(ValueError, match="24 个神经元.*全部剪掉"):
        compression.prune_neurons(untouched, 0.99)
    with pytest.raises(ValueError, match="没有 gate_proj"):
        compression.prune_neurons(torch.nn.Sequential(torch.nn.Linear(2, 2)), 0.5)


# ── low rank ─────────────────────────────────────────────────────────────────────────────────────


def test_full_rank_changes_nothing_but_the_size(untouched):
    factored = compression.factorize(untouched, 1.0)
    torch.testing.assert_close(logits(factored), logits(untouched), atol=1e-4, rtol=1e-4)
    assert factored.num_parameters() > untouched.num_parameters()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_each_layer_becomes_the_nearest_of_its_rank(untouched, share):
    factored = compression.factorize(untouched, share)
    expected = untouched.num_parameters()
    for name, weight in lowrank.linear_weights(untouched).items():
        right, left = factored.get_submodule(name.removesuffix(".weight"))
        rank = round(share * min(weight.shape))
        assert right.weight.shape == (rank, weight.shape[1]) and left.weight.shape == (weight.shape[0], rank)
        error = (weight - left.weight @ right.weight).norm().item()
        assert error == pytest.approx(lowrank.truncation_error(lowrank.spectrum(weight), rank), rel=1e-3)
        expected += rank * sum(weight.shape) - weight.numel()
    assert factored.num_parameters() == expected


def test_weights_of_low_rank_survive_and_so_do_biases():
    model = tiny(attention_bias=True)
    with torch.no_grad():
        for weight in lowrank.linear_weights(model).values():
            left, right = lowrank.truncate(weight, min(weight.shape) // 4)
            weight.copy_(left @ right)
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias.normal_()
    factored = compression.factorize(model, 0.25)
    torch.testing.assert_close(logits(factored), logits(model), atol=1e-4, rtol=1e-4)
    assert factored.num_parameters() < model.num_parameters()


@pytest.mark.parametrize("share", [0, -0.5, 1.01, 8, float("nan")])
def test_a_rank_out_of_range_is_refused(untouched, share):
    with pytest.raises(ValueError, match="秩的份额"):
        compression.factorize(untouched, share)


def test_rank_zero_is_refused_by_name(untouched):
    with pytest.raises(ValueError, match=r"layers\.0\..*形状是.*秩 \(rank\) 成了 0"):
        compression.factorize(untouched, 0.02)


# ── distillation ─────────────────────────────────────────────────────────────────────────────────


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


def test_distillation_brings_the_student_nearer_to_the_teacher(untouched):
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


# ── what it brought ──────────────────────────────────────────────────────────────────────────────


def test_sizes_count_tied_weights_once_and_sparse_ones_as_csr(untouched):
    pruned = compression.prune_magnitude(untouched, 0.75)
    counts = compression.weight_counts(pruned)
    assert counts["parameters"] == untouched.num_parameters() == pruned.num_parameters()
    assert counts["mib"] == pytest.approx(4 * counts["parameters"] / 2**20)
    linear = lowrank.linear_weights(pruned)
    pad_row = 16  # the embedding of the pad token is zero from the start
    zeros = pad_row + sum(round(0.75 * weight.numel()) for weight in linear.values())
    assert counts["parameters"] - counts["nonzero"] == zeros
    saved = 0
    for weight in linear.values():
        csr = weight.detach().to_sparse_csr()
        parts = (csr.values(), csr.col_indices().int(), csr.crow_indices().int())
        saved += 4 * weight.numel() - sum(part.numel() * part.element_size() for part in parts)
    assert saved > 0 and counts["sparse_mib"] == pytest.approx(counts["mib"] - saved / 2**20)


def test_half_zeros_save_nothing(untouched):
    counts = compression.weight_counts(compression.prune_magnitude(untouched, 0.5))
    assert counts["sparse_mib"] == counts["mib"]


def test_poems_are_given_as_the_base_met_them(shipped, rows):
    _, tokenizer = shipped
    row = rows[0]
    ((ids, labels),) = compression.poem_examples(tokenizer, [row])
    poem = row["messages"][-1]["content"]
    assert tokenizer.decode(ids) == f"{row['form']}《{row['theme']}》\n{poem}<|endoftext|>"
    assert tokenizer.decode([label for label in labels if label != -100]) == f"{poem}<|endoftext|>"
    with pytest.raises(ValueError, match="没有数据行"):
        compression.poem_examples(tokenizer, [])


def test_the_shipped_model_loses_little_by_neurons_and_much_by_rank(shipped, rows):
    base, tokenizer = shipped
    held_out = compression.poem_examples(tokenizer, rows)
    made = {
        "base": base,
        "neurons": compression.prune_neurons(base, 0.25),
        "rank": compression.factorize(base, 0.6),
    }
    table = compression.compare(made, held_out, repeats=1).set_index("model")
    assert list(table.columns) == ["parameters", "nonzero", "mib", "sparse_mib", "loss", "perplexity", "time"]
    for name, model in made.items():
        assert table.loc[name, "loss"] == pytest.approx(held_out_loss(model, held_out))
        assert table.loc[name, "perplexity"] == pytest.approx(math.exp(table.loc[name, "loss"]))
    assert table.loc["base", "time"] == 1 and (table["time"] > 0).all()
    assert table.loc["base", "parameters"] == 6_240_256
    assert table.loc["neurons", "parameters"] < table.loc["rank", "parameters"] < 6_240_256
    assert table.loc["neurons", "loss"] < table.loc["base", "loss"] + 0.1
    assert table.loc["rank", "loss"] > table.loc["base", "loss"] + 0.3
