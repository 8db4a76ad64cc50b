"""LoRA written out equals peft's, in float64 to 1e-10, and says clearly what it can't do."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from lab_utils import lora, models, params
from lab_utils.linear_layers import PEFT_PREFIX
from lab_utils.lora import LoRALinear, inject, merge, unmerge

VARIANTS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "rsdora": {"use_rslora": True, "use_dora": True},
}
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def shipped():
    """The course's own model in float64."""
    return models.load(models.SHIPPED, dtype="float64")[0]


@pytest.fixture
def tiny(tiny_qwen3):
    """Makes a Qwen3 of two layers in float64, with or without biases in its attention."""

    def make(bias: bool = True) -> nn.Module:
        sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
        return tiny_qwen3(**sizes, attention_bias=bias, pad_token_id=None, eos_token_id=1).double()

    return make


def set_randomly(model: nn.Module) -> None:
    """Give every trainable parameter a value that matters, so that nothing is equal by being zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora.trainable(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def pair(model: nn.Module, dropout: float = 0.0, r: int = 4, **variant):
    """`(ours, peft's)`: two copies of `model` with the same adapter."""
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    inject(ours, TARGETS, r, 6, dropout, **variant)
    set_randomly(ours)
    config = LoraConfig(r=r, lora_alpha=6, target_modules=TARGETS, lora_dropout=dropout, **variant)
    theirs = get_peft_model(theirs, config)
    loaded = set_peft_model_state_dict(theirs, lora.adapter_state(ours))
    assert not loaded.unexpected_keys
    assert not [key for key in loaded.missing_keys if "lora" in key]
    return ours, theirs


def loss_and_gradients(model: nn.Module, ids: torch.Tensor):
    """The loss on `ids`, the logits, and the gradient of each trainable parameter, in the model's order."""
    out = model(input_ids=ids, labels=ids)
    return out.loss, out.logits, torch.autograd.grad(out.loss, lora.trainable(model))


def assert_same(got, want, tolerance: float = 1e-10):
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def by_name(model: nn.Module, gradients) -> dict[str, torch.Tensor]:
    """Gradients under peft's names of their parameters."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [
        name.removeprefix(PEFT_PREFIX)
        .replace(".default", "")
        .replace("_vector.weight", "")
        .removesuffix(".weight")
        for name in names
    ]
    return dict(zip(plain, gradients, strict=True))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_equals_peft_in_outputs_gradients_and_merged_weights(tiny, variant, bias):
    ours, theirs = pair(tiny(bias), **variant)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    loss, logits, gradients = loss_and_gradients(ours, ids)
    peft_loss, peft_logits, peft_gradients = loss_and_gradients(theirs, ids)
    assert_same(loss, peft_loss)
    assert_same(logits, peft_logits)
    got, want = by_name(ours, gradients), by_name(theirs, peft_gradients)
    assert got.keys() == want.keys()
    assert len(got) == 2 * len(TARGETS) * (3 if "use_dora" in variant else 2)
    for name in got:
        assert got[name].abs().max() > 1e-6, name
        assert_same(got[name], want[name])
    merge(ours)
    merged = theirs.merge_and_unload()
    for name, layer in ours.named_modules():
        if isinstance(layer, LoRALinear):
            assert_same(layer.base.weight, merged.get_submodule(name).weight)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_equals_peft_on_the_layers_of_the_shipped_model(shipped, variant):
    ours, theirs = pair(shipped, r=8, **variant)
    ids = torch.randint(100, 5000, (2, 24), generator=torch.Generator().manual_seed(3))
    loss, logits, gradients = loss_and_gradients(ours, ids)
    peft_loss, peft_logits, peft_gradients = loss_and_gradients(theirs, ids)
    assert_same(loss, peft_loss)
    assert_same(logits, peft_logits)
    got, want = by_name(ours, gradients), by_name(theirs, peft_gradients)
    for name in want:
        assert_same(got[name], want[name])


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_dropout_drops_what_peft_drops(tiny, variant):
    ours, theirs = pair(tiny(), dropout=0.4, **variant)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    without = ours.eval()(input_ids=ids).logits
    ours.train()
    theirs.train()
    torch.manual_seed(5)
    _loss, logits, gradients = loss_and_gradients(ours, ids)
    torch.manual_seed(5)
    _peft_loss, peft_logits, peft_gradients = loss_and_gradients(theirs, ids)
    assert (logits - without).abs().max() > 1e-3
    assert_same(logits, peft_logits)
    for got, want in zip(gradients, peft_gradients, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_starts_from_the_numbers_peft_starts_from(init):
    base = nn.Linear(12, 7)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=init)
    torch.manual_seed(3)
    theirs = get_peft_model(nn.Sequential(copy.deepcopy(base)), config)
    state = get_peft_model_state_dict(theirs)
    torch.manual_seed(3)
    nn.Linear(12, 4, bias=False), nn.Linear(4, 7, bias=False)  # peft's A and B, each drawn once for nothing
    ours = LoRALinear(base, 4, 8, init_lora_weights=init)
    assert ours.lora_A.std() > 0.05
    assert torch.equal(ours.lora_A, state["base_model.model.0.lora_A.weight"])
    assert torch.equal(ours.lora_B, state["base_model.model.0.lora_B.weight"])
    assert not ours.lora_B.any()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_zero_is_the_base_to_the_last_bit(tiny, variant, dtype):
    model = tiny().to(dtype)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    before = model(input_ids=ids).logits
    inject(model, TARGETS, 4, 6, **variant)
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_merging_changes_no_output_and_can_be_undone(tiny, variant):
    model = tiny()
    inject(model, TARGETS, 4, 6, **variant)
    set_randomly(model)
    model.eval()
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    weights = {n: m.base.weight.clone() for n, m in model.named_modules() if isinstance(m, LoRALinear)}
    before = model(input_ids=ids).logits
    merge(model)
    layers = {name: model.get_submodule(name) for name in weights}
    for name, layer in layers.items():
        assert (layer.base.weight - weights[name]).abs().max() > 1e-3
        assert torch.equal(layer.merged_weight(), layer.base.weight)
    assert_same(model(input_ids=ids).logits, before)
    unmerge(model)
    for name, layer in layers.items():
        assert_same(layer.base.weight, weights[name])
    assert_same(model(input_ids=ids).logits, before)
    merge(model)
    assert_same(model(input_ids=ids).logits, before)


def test_merging_twice_or_unmerging_first_is_refused_and_changes_nothing(tiny):
    model = tiny()
    inject(model, TARGETS, 4, 6)
    set_randomly(model)
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge(model)
    merge(model)
    merged = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"6 / 6 层已经合并过 \(merged\)"):
        merge(model)
    assert all(torch.equal(value, merged[name]) for name, value in model.state_dict().items())
    first = next(m for m in model.modules() if isinstance(m, LoRALinear))
    with pytest.raises(RuntimeError, match="加两遍"):
        first.merge()
    first.unmerge()
    with pytest.raises(RuntimeError, match="1 / 6 层还没有合并.*layers.0.self_attn.q_proj"):
        unmerge(model)
    with pytest.raises(RuntimeError, match="没有东西可以拆"):
        first.unmerge()


def test_a_merged_layer_refuses_to_train():
    layer = LoRALinear(nn.Linear(4, 3), 2, 4).train()
    layer.merge()
    with pytest.raises(RuntimeError, match="unmerge"):
        layer(torch.ones(1, 4))
    assert layer.eval()(torch.ones(1, 4)).shape == (1, 3)


def test_one_broken_adapter_stops_the_merge_before_any_weight_changes(tiny):
    model = tiny()
    names = inject(model, TARGETS, 4, 6)
    set_randomly(model)
    with torch.no_grad():
        model.get_submodule(names[-1]).lora_B[0, 0] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{names[-1]}：合并后的权重里有 NaN"):
        merge(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    assert not any(m.merged for m in model.modules() if isinstance(m, LoRALinear))


def test_a_dora_magnitude_of_zero_is_not_merged():
    layer = LoRALinear(nn.Linear(4, 3), 2, 4, use_dora=True)
    with torch.no_grad():
        layer.lora_magnitude[1] = 0
    with pytest.raises(ValueError, match="幅度"):
        layer.merge()
    assert not layer.merged


def test_only_the_adapter_is_trained_and_training_moves_it(tiny):
    model = tiny()
    names = inject(model, TARGETS, 2, 4, use_dora=True)
    assert [n for n in names if n.endswith("q_proj")] == [
        f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)
    ]
    assert len(names) == 6
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{n}.lora_{part}" for n in names for part in ("A", "B", "magnitude")}
    shapes = [(m.base.in_features, m.base.out_features) for m in map(model.get_submodule, names)]
    assert lora.trainable_count(model) == sum(2 * (d_in + d_out) + d_out for d_in, d_out in shapes)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(lora.trainable(model), lr=0.1)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    for _ in range(2):  # A has no gradient while B is zero
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]) and parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0, name


def test_a_has_no_gradient_at_step_zero():
    layer = LoRALinear(nn.Linear(4, 3), 2, 4)
    layer(torch.ones(1, 4)).sum().backward()
    assert not layer.lora_A.grad.any()
    assert layer.lora_B.grad.any()


def test_a_half_precision_base_gets_a_float32_adapter():
    torch.manual_seed(0)
    base = nn.Linear(8, 6).to(torch.bfloat16)
    layer = LoRALinear(base, 2, 4)
    set_randomly(layer)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    exact = (x.float() @ (base.weight.float() + layer.delta_weight()).T + base.bias.float()).detach()
    torch.testing.assert_close(layer(x).float(), exact, rtol=0.02, atol=0.02)
    layer.eval().merge()
    assert layer.base.weight.dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), exact, rtol=0.02, atol=0.02)


def test_injection_keeps_each_layers_mode(tiny):
    model = tiny().eval()
    inject(model, ["q_proj"], 2, 4)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "vproj"], r"'vproj' 结尾 \(no match\).*是不是 'v_proj'"),
        (["proj"], "no match"),
        ("q_proj", r"targets 要列表，例如 \['q_proj'\]"),
        ([], "targets 是空的.*down_proj"),
        (["self_attn"], r"self_attn：只能包装线性层 \(nn.Linear\)，收到的是 Qwen3Attention"),
        (["embed_tokens"], "收到的是 Embedding"),
    ],
)
def test_targets_that_fit_nothing_are_named_and_the_model_stays(tiny, targets, message):
    model = tiny()
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises((TypeError, ValueError), match=message):
        inject(model, targets, 2, 4)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    inject(model, ["v_proj"], 2, 4)


def test_all_linear_is_every_linear_layer_but_the_head(shipped):
    model = copy.deepcopy(shipped)
    names = inject(model, "all-linear", 8, 16)
    assert len(names) == 6 * 7 and "lm_head" not in names
    assert lora.trainable_count(model) == params.lora_count(models.path(models.SHIPPED), 8, "all-linear")
    with pytest.raises(ValueError, match="没有"):
        inject(nn.Sequential(nn.ReLU()), "all-linear", 2, 4)


def test_injecting_twice_is_refused(tiny):
    model = tiny()
    inject(model, ["q_proj"], 2, 4)
    with pytest.raises(ValueError, match="already injected"):
        inject(model, ["v_proj"], 2, 4)


def test_a_tied_head_is_refused(shipped):
    with pytest.raises(ValueError, match="lm_head 与 model.embed_tokens 共用一个权重"):
        inject(copy.deepcopy(shipped), ["lm_head"], 2, 4)


@pytest.mark.parametrize("call", [merge, unmerge, lora.adapter_state])
def test_without_an_adapter_there_is_nothing_to_merge_or_save(tiny, call):
    with pytest.raises(ValueError, match="没有 LoRALinear"):
        call(tiny())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "正整数，收到 0"),
        ({"r": 2.0}, "正整数，收到 2.0"),
        ({"r": True}, "正整数"),
        ({"r": 4}, r"秩 r=4 超过了 min\(d_in, d_out\)=3：3×5 的矩阵"),
        ({"lora_alpha": 0}, "lora_alpha 必须是正数"),
        ({"lora_alpha": math.nan}, "lora_alpha 必须是正数"),
        ({"dropout": 1.0}, "dropout"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": False}, "False"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRALinear(nn.Linear(5, 3), **({"r": 2, "lora_alpha": 4} | settings))
    model = nn.ModuleDict({"wide": nn.Linear(9, 9), "inner": nn.Linear(5, 3)})
    with pytest.raises(ValueError, match=f"(wide|inner)：.*{message}"):
        inject(model, ["wide", "inner"], **({"r": 2, "lora_alpha": 4} | settings))
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_that_cannot_be_adapted_are_refused():
    with pytest.raises(TypeError, match="Conv1d"):
        LoRALinear(nn.Conv1d(4, 4, 1), 2, 4)
    broken = nn.Linear(5, 3)
    broken.weight.data[1, 1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        LoRALinear(broken, 2, 4)
    whole = nn.Linear(5, 3)
    whole.weight = nn.Parameter(torch.ones(3, 5, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="torch.int8"):
        LoRALinear(whole, 2, 4)
    with pytest.raises(ValueError, match="meta"):
        LoRALinear(nn.Linear(5, 3, device="meta"), 2, 4)
    empty = nn.Linear(5, 3)
    empty.weight.data[2] = 0
    with pytest.raises(ValueError, match="第 2 行"):
        LoRALinear(empty, 2, 4, use_dora=True)
    assert LoRALinear(empty, 2, 4)(torch.ones(1, 5)).isfinite().all()


def test_four_bit_weights_are_refused():
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(64, 64)
    layer.weight = type(layer.weight)(torch.randn(64, 64), quant_type="nf4").to("cpu")
    layer = layer.to("cpu")
    assert not layer.weight.is_floating_point()
    with pytest.raises(TypeError, match="量化"):
        LoRALinear(layer, 2, 4)
