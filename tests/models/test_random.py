"""Models with random weights: the right architecture, on the right device, trainable as the real one."""

import pytest

from lab_utils import models, params, vram


@pytest.fixture(scope="module")
def config():
    """The shipped model's."""
    return params.load_config(models.SHIPPED)


def test_a_random_model_has_the_architecture_and_dtype_asked_for(config):
    import torch

    model = models.random(config, dtype="bfloat16", device="cpu")
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert sum(parameter.numel() for parameter in model.parameters()) == params.count(models.SHIPPED).total
    assert model.get_input_embeddings().weight.std() > 0


def test_in_four_bit_all_linear_layers_but_the_output_layer_are_nf4_and_give_nearly_the_same(config):
    import torch
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    plain = models.random(config, "float32", "cpu")
    torch.manual_seed(0)
    packed = models.random(config, "float32", "cpu", four_bit=True)
    names = [name for name, module in packed.named_modules() if isinstance(module, Linear4bit)]
    assert len(names) == 7 * config.num_hidden_layers
    assert not isinstance(packed.get_output_embeddings(), Linear4bit)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(plain(ids).logits, packed(ids).logits, -1).min() > 0.9


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_memory_of_a_step_is_that_of_the_model_from_its_folder(config, method):
    made = vram.measured_step(
        lambda: models.random(config, "float32", "cpu", method == "qlora"), method, 32, 2
    )
    read = vram.measured_step(models.path(models.SHIPPED), method, 32, 2)
    assert made.bytes == pytest.approx(read.bytes, rel=0.01)


def test_a_dtype_that_cannot_be_is_refused(config):
    with pytest.raises(ValueError, match="int8"):
        models.random(config, dtype="int8", device="cpu")
