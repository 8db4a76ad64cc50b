"""A Modelfile prompts as the tokenizer does, or isn't written."""

import pytest

from lab_utils import export, models
from lab_utils.export.ollama import CHATML, render

CHAT = [
    {"role": "system", "content": "你是诗人。"},
    {"role": "user", "content": " 写一首诗\n题目：秋夜 "},
    {"role": "assistant", "content": "秋夜月初上，"},
    {"role": "user", "content": "{{ .Role }} \\1"},
]


def test_chatml_is_the_tokenizers_own(tokenizer):
    for messages in (CHAT, CHAT[1:2], CHAT[1:]):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert render(CHATML, messages) == wanted


def test_trimming_as_go_does():
    user = [{"role": "user", "content": "x"}]
    assert render("a \n{{- range .Messages }} {{ .Content }} {{ end -}}\n b", user) == "a x b"
    assert render("{{ range .Messages }}{{.Role}}:{{ .Content -}}  \n{{ end }}!", user) == "user:x!"


@pytest.mark.parametrize(
    "template",
    ["{{ .Prompt }}", "{{ range .Messages }}{{ .Thinking }}{{ end }}", "{{ if .System }}x{{ end }}"],
)
def test_what_it_does_not_know_it_says(template):
    with pytest.raises(ValueError):
        render(template, CHAT)


def test_modelfile_of_the_shipped_model():
    text = export.modelfile(models.ASSETS / models.SHIPPED, "build/poet-q8_0.gguf")
    lines = text.splitlines()
    assert lines[0] == "FROM ./poet-q8_0.gguf"
    assert f'TEMPLATE """{CHATML}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'PARAMETER stop "<|endoftext|>"' in lines
    assert {"PARAMETER temperature 0.7", "PARAMETER top_p 0.9", "PARAMETER num_ctx 512"} <= set(lines)


def test_a_template_that_prompts_otherwise_is_refused():
    for wrong in (CHATML.removesuffix("\n"), CHATML.replace("<|im_end|>", ""), "You are helpful.\n" + CHATML):
        with pytest.raises(ValueError, match="不同"):
            export.modelfile(models.ASSETS / models.SHIPPED, "poet.gguf", wrong)
