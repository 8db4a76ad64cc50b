"""What a client of an OpenAI server sends and gets, from the bare HTTP up; the libraries do the same."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_utils.errors import InvalidValue

if TYPE_CHECKING:
    import openai


def request_body(model: str, text: str, max_tokens: int, thinking: bool | None = None) -> dict[str, Any]:
    """The JSON body of `POST /v1/chat/completions` for one user message.

    `thinking` True or False becomes the variable `enable_thinking` of the model's chat template, by
    `chat_template_kwargs` at the top of the body; None leaves it out.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
    }
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def curl(base_url: str, body: dict) -> str:
    """The command that sends `body`, to be run in a shell where OPENAI_API_KEY holds the key."""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return (
        f"curl -s --noproxy '*' {base_url}/chat/completions \\\n"
        '  -H "Authorization: Bearer $OPENAI_API_KEY" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d {data}"
    )


def stream_text(line: str) -> str | None:
    """The piece of text in one line of a streamed answer (server-sent events): "" when the line carries
    none, None for the line that ends the stream."""
    if not line.startswith("data:"):
        return ""
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return None
    choices = json.loads(data)["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def connect(base_url: str, api_key: str, **options: Any) -> "openai.OpenAI":
    """An `openai.OpenAI` for the server at `base_url`, past any proxy of the environment."""
    import openai

    direct = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=base_url, api_key=api_key, http_client=direct, **options)


def pieces(client, model: str, messages: list[dict], **options) -> Iterator[str]:
    """The pieces of an answer as they come, by the openai library; `options` as for `create`."""
    answer = client.chat.completions.create(model=model, messages=messages, stream=True, **options)
    for event in answer:
        if event.choices and event.choices[0].delta.content:
            yield event.choices[0].delta.content


def template_knows(model_folder: str | Path, variable: str) -> bool:
    """Whether the chat template of the model in this folder looks at `variable`, such as `enable_thinking`.

    A variable that it doesn't know is ignored without a word. Raises InvalidValue for a model without a
    template.
    """
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(model_folder).chat_template
    if not template:
        raise InvalidValue(
            f"{model_folder} 没有对话模板 (chat template)，不能对话，只能续写", "请换一个对话模型 (instruct)"
        )
    return variable in template_variables(template)


def template_variables(template: str) -> set[str]:
    """The variables that a chat template takes from outside."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(environment.parse(template))


def length_tokens(text: str) -> int:
    """How many tokens vLLM takes `--max-model-len TEXT` for: a small k is 1000, a capital K 1024.

    As vLLM's own parser (vllm/utils/argparse_utils.py, human_readable_int): k m g t are powers of 1000
    and take decimals, K M G T powers of 1024 and don't. Raises InvalidValue for anything else.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", text.strip())
    if not parts or ("." in parts[1] and not parts[2].islower()):
        raise InvalidValue(
            f"长度 {text!r} 不对", "写 32768、32k（= 32000）或 32K（= 32768）；大写的 K 前面不能有小数"
        )
    power = "kmgt".find(parts[2].lower()) + 1 if parts[2] else 0
    return int(float(parts[1]) * (1000 if parts[2].islower() else 1024) ** power)
