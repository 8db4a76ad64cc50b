"""What is known of each model is true of its architecture and of the installed SWIFT."""

import pytest

from lab_utils import models


def test_an_unknown_name_suggests_a_near_one_and_lists_all():
    with pytest.raises(ValueError, match="'qwen3-0.6b'.*是不是 'Qwen3-0.6B'") as caught:
        models.path("qwen3-0.6b")
    assert all(name in str(caught.value) for name in models.REGISTRY)


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [
        ("SmolLM2-135M-Instruct", "llama", (49152, 576, 1536, 30, 9, 3, 64, True)),
        ("Qwen3-0.6B", "qwen3", (151936, 1024, 3072, 28, 16, 8, 128, True)),
        ("Qwen2.5-0.5B-Instruct", "qwen2", (151936, 896, 4864, 24, 14, 2, 64, True)),
        ("Qwen2.5-7B-Instruct", "qwen2", (152064, 3584, 18944, 28, 28, 4, 128, False)),
    ],
)
def test_parameter_counts_are_those_of_the_architectures(name, kind, sizes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "tie_word_embeddings")  # fmt: skip
    config = AutoConfig.for_model(kind, **dict(zip(fields, sizes, strict=True)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert models.REGISTRY[name].parameters == model.num_parameters()


def test_every_entry_can_be_trained_by_the_installed_swift():
    from swift.model.constant import LLMModelType, MLLMModelType
    from swift.template.constant import LLMTemplateType, MLLMTemplateType

    kinds = {*vars(LLMModelType).values(), *vars(MLLMModelType).values()}
    templates = {*vars(LLMTemplateType).values(), *vars(MLLMTemplateType).values()}
    for entry in models.REGISTRY.values():
        assert entry.model_type in kinds, entry.name
        assert entry.template in templates, entry.name
        assert entry.license
        if not isinstance(entry, models.Shipped):
            assert entry.parameters and entry.download_bytes and entry.modelscope
