import pytest

from lab_utils import models
from lab_utils.models.generation import chat_prompt, complete, end_ids


@pytest.fixture(scope="module")
def shipped():
    return models.load(models.SHIPPED)


def test_batching_and_padding_change_nothing(shipped):
    prompts = ["《山夜》\n", "五言律诗《江上晚晴有怀》\n", "《雪》\n"]
    together = complete(*shipped, prompts, 40)
    alone = [complete(*shipped, [prompt], 40)[0] for prompt in prompts]
    assert together == alone == complete(*shipped, prompts, 40, batch_size=2)


def test_sampling_follows_the_seed(shipped):
    once = complete(*shipped, ["《山夜》\n"] * 4, 40, temperature=0.8, seed=3)
    assert once == complete(*shipped, ["《山夜》\n"] * 4, 40, temperature=0.8, seed=3)
    assert once != complete(*shipped, ["《山夜》\n"] * 4, 40, temperature=0.8, seed=4)
    assert len({c.text for c in once}) > 1


def test_ended_means_stopped_by_itself(shipped):
    model, tokenizer = shipped
    full = complete(model, tokenizer, ["《山夜》\n"], 96)[0]
    cut = complete(model, tokenizer, ["《山夜》\n"], 5)[0]
    assert full.ended and not cut.ended
    assert full.text.startswith(cut.text) and len(cut.text) == 5
    assert "<|" not in full.text


def test_a_model_has_one_end_token_or_several_or_none():
    assert (end_ids(2), end_ids([2, 0]), end_ids(0), end_ids(None)) == ([2], [2, 0], [0], [])


@pytest.mark.parametrize("prompts", [[], [""], ["《山夜》", ""]])
def test_empty_prompts_are_refused(shipped, prompts):
    with pytest.raises(ValueError, match="不能为空"):
        complete(*shipped, prompts)


def test_chat_prompt_ends_where_the_assistant_begins(shipped):
    text = chat_prompt(shipped[1], "写一首诗")
    assert text == "<|im_start|>user\n写一首诗<|im_end|>\n<|im_start|>assistant\n"
