"""A Modelfile for Ollama: the GGUF file, the chat template in Go's syntax, the end tokens.

Ollama doesn't read a tokenizer's Jinja template. What it is given instead must give the same
prompt, so the two are rendered and compared before a Modelfile is written.
"""

import re
from pathlib import Path

from lab_utils.errors import InvalidValue
from lab_utils.models.generation import end_ids

CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
"""ChatML as an Ollama template."""
_PROBES = (
    [("user", "你好")],
    [("system", "你是诗人。"), ("user", "写一首诗\n题目：秋夜")],
    [("user", "一"), ("assistant", "二。"), ("user", " 三 ")],
)


def modelfile(folder: str | Path, gguf: str | Path, template: str = CHATML) -> str:
    """Text of the Modelfile that makes Ollama prompt `gguf` as the tokenizer in `folder` does.

    Stop parameters are the end tokens of `generation_config.json`; temperature and top_p come from
    there too. Raises InvalidValue when `template` gives another prompt than the tokenizer's own.
    """
    from transformers import AutoTokenizer, GenerationConfig

    folder = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for probe in _PROBES:
        messages = [{"role": role, "content": content} for role, content in probe]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if render(template, messages) != prompt:
            raise InvalidValue(
                f"这个 TEMPLATE 写出的提示和分词器的对话模板不同：应为 {prompt!r}，"
                f"却是 {render(template, messages)!r}",
                "请改 TEMPLATE，不要改模型",
            )
    settings = GenerationConfig.from_pretrained(folder)
    stops = [tokenizer.decode([end]) for end in end_ids(settings.eos_token_id)]
    lines = [f"FROM ./{Path(gguf).name}", f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if settings.do_sample:
        lines += [f"PARAMETER temperature {settings.temperature}", f"PARAMETER top_p {settings.top_p}"]
    else:
        lines.append("PARAMETER temperature 0")
    return "\n".join([*lines, f"PARAMETER num_ctx {_context(folder)}"]) + "\n"


def render(template: str, messages: list[dict]) -> str:
    """What Go's text/template makes of `template`, for the part that chat templates need: one
    `range .Messages … end` with `.Role` and `.Content`, and `-` for trimming white space.

    Raises InvalidValue for anything else in braces.
    """
    text = re.sub(r"\s*\{\{-", "{{", template)
    text = re.sub(r"-\}\}\s*", "}}", text)
    loop = re.fullmatch(r"(.*?)\{\{ ?range \.Messages ?\}\}(.*?)\{\{ ?end ?\}\}(.*)", text, re.DOTALL)
    if loop is None or re.search(r"\{\{", loop[1] + loop[3]):
        raise InvalidValue(
            "这里只认识一个 {{ range .Messages }} … {{ end }}，其余是普通文字", "请把模板改成这样"
        )
    turns = [_turn(loop[2], message) for message in messages]
    return loop[1] + "".join(turns) + loop[3]


def _turn(body: str, message: dict) -> str:
    def value(field: re.Match) -> str:
        if field[1] not in (".Role", ".Content"):
            raise InvalidValue(f"不认识 {{{{ {field[1]} }}}}", "这里只有 .Role 和 .Content")
        return message[field[1].lstrip(".").lower()]

    return re.sub(r"\{\{ ?(.*?) ?\}\}", value, body)


def _context(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).max_position_embeddings
