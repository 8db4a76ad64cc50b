"""One shape for whatever can answer a prompt: a folder, base and adapter, a server, a GGUF file.

The parity gate asks every candidate the same three questions, so it needn't know what it is.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from lab_utils import models
from lab_utils.artifacts.folder_kinds import WHOLE, classify, model_folder, resolve
from lab_utils.errors import InvalidValue, LabError, Unavailable
from lab_utils.models.generation import Completion, complete_batch, decoding
from lab_utils.models.loading import nf4_config, with_adapter

if TYPE_CHECKING:
    import httpx

TOP = 20
"""How many of the likeliest tokens are compared: as many as vLLM gives by default."""
Messages = list[dict]


class NoConnection(LabError, ConnectionError):
    """A server that doesn't answer."""


class Candidate(Protocol):
    """What the parity gate asks of a model. Batches are lists, answers come in the same order."""

    name: str

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a conversation in the candidate's own chat template, up to where it begins to answer."""

    def next_logprobs(self, batch: Sequence[list[int]]) -> list[dict[int, float]] | None:
        """Of each prompt the `TOP` likeliest next tokens with their log-probability in nats; None if not offered."""

    def greedy(self, batch: Sequence[list[int]], max_new_tokens: int) -> list[Completion]:
        """What follows each prompt at temperature 0, and whether the candidate ended it itself."""


class Local:
    """A transformers model in this process, with or without an adapter that isn't merged."""

    def __init__(self, model, tokenizer, name: str, batch_size: int = 32):
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Raises InvalidValue when the tokenizer has no chat template."""
        if not self.tokenizer.chat_template:
            raise InvalidValue(
                f"{self.name} 没有对话模板 (chat template)", "合并时要把底座的 chat_template.jinja 一起带上"
            )
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def next_logprobs(self, batch: Sequence[list[int]]) -> list[dict[int, float]]:
        import torch

        likeliest = []
        for part in _parts(batch, self.batch_size):
            with torch.no_grad():
                logits = self.model(**self._padded(part), logits_to_keep=1).logits[:, -1].float()
            best = logits.log_softmax(-1).topk(min(TOP, logits.shape[-1]))
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            likeliest += [dict(zip(ids, values, strict=True)) for ids, values in rows]
        return likeliest

    def greedy(self, batch: Sequence[list[int]], max_new_tokens: int) -> list[Completion]:
        completions = []
        for part in _parts(batch, self.batch_size):
            inputs = self._padded(part)
            completions += complete_batch(self.model, self.tokenizer, inputs, max_new_tokens, **decoding())
        return completions

    def _padded(self, part: Sequence[list[int]]) -> dict:
        """`input_ids` and `attention_mask`, both (batch, seq) int64, padded on the left."""
        import torch

        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in part])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part])
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}


class Served:
    """A model behind an OpenAI endpoint that can also tokenize, as vLLM's does.

    Many requests are in flight at once: a server batches them.
    """

    in_flight = 16
    timeout = 120.0
    """Seconds without a sign of life after which a request has failed."""

    def __init__(self, base_url: str, model: str, api_key: str | None = None):
        self.name = model
        self.root = base_url.rstrip("/").removesuffix("/v1")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def prompt_ids(self, messages: Messages) -> list[int]:
        body = {"model": self.name, "messages": messages, "add_generation_prompt": True}
        with self._connect() as http:
            return self._post(http, "/tokenize", body)["tokens"]

    def next_logprobs(self, batch: Sequence[list[int]]) -> list[dict[int, float]] | None:
        extra = {"logprobs": TOP, "return_tokens_as_token_ids": True}
        answers = self._complete(batch, 1, extra)
        if any(not choice.get("logprobs") for choice in answers):
            return None
        return [_by_token_id(choice["logprobs"]["top_logprobs"][0]) for choice in answers]

    def greedy(self, batch: Sequence[list[int]], max_new_tokens: int) -> list[Completion]:
        answers = self._complete(batch, max_new_tokens, {})
        return [Completion(choice["text"], choice["finish_reason"] == "stop") for choice in answers]

    def _complete(self, batch: Sequence[list[int]], max_tokens: int, extra: dict) -> list[dict]:
        """The choice of `/v1/completions` for each prompt of token ids, at temperature 0."""

        with self._connect() as http, ThreadPoolExecutor(self.in_flight) as pool:

            def ask(ids: list[int]) -> dict:
                body = {"model": self.name, "prompt": list(ids), "max_tokens": max_tokens, "temperature": 0}
                return self._post(http, "/v1/completions", body | extra)["choices"][0]

            return list(pool.map(ask, batch))

    def _connect(self) -> "httpx.Client":
        """A client for one batch of requests, past any proxy of the environment where the server is on this
        machine; to be closed."""
        import httpx

        return httpx.Client(headers=self.headers, timeout=self.timeout, trust_env=not is_local(self.root))

    def _post(self, http: "httpx.Client", path: str, body: dict) -> dict:
        """The JSON answer. Raises NoConnection when there is none, Unavailable for an error status."""
        import httpx

        try:
            answer = http.post(self.root + path, json=body)
        except httpx.HTTPError as error:
            raise NoConnection(
                f"连不上 {self.root} ({type(error).__name__})", "服务启动了吗？端口对吗？"
            ) from error
        if answer.is_error:
            raise Unavailable(
                f"{self.root}{path} 返回 {answer.status_code}：{answer.text[:300]}", "看服务的日志里说了什么"
            )
        return answer.json()


def is_local(url: str) -> bool:
    """Whether `url` names this machine by its loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def local(
    model: str | Path,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    bits: int | None = None,
) -> Local:
    """A candidate in this process, on the CPU. `model`: a folder or a name of `lab_utils.models`.

    `adapter`: adapter folder, or the folder of the run that made it; it is put on the model, not
    merged. `bits` 4: the model's weights are stored in NF4, as in QLoRA, and computed in `dtype`.
    Raises InvalidValue for a folder that doesn't hold what is asked for, and what `models.load` raises.
    """
    folder = model_folder(model)
    kind = classify(folder).kind
    if kind not in WHOLE:
        raise InvalidValue(f"{folder} 是 {kind}，不是完整的模型", "适配器要和底座一起给：(底座, 适配器)")
    adapter_folder = None if adapter is None else _adapter_folder(adapter)
    name = f"{folder.name} + {adapter_folder.name}" if adapter_folder else folder.name
    if bits is None:
        loaded, tokenizer = models.load(str(folder), dtype, adapter_folder)
        return Local(loaded, tokenizer, name)
    loaded, tokenizer = _load_quantized(folder, adapter_folder, dtype)
    return Local(loaded, tokenizer, f"{name}（4 位）")


def served(base_url: str, model: str, api_key: str | None = None) -> Served:
    """A candidate behind a server. `base_url` as an OpenAI client wants it, with or without `/v1`;
    `model`: the name it is served under.

    The server must speak `/v1/completions` with prompts of token ids, and `/tokenize` with
    `messages`; vLLM does. Nothing is asked of it yet.
    """
    return Served(base_url, model, api_key)


def _adapter_folder(adapter: str | Path) -> Path:
    folder = resolve(adapter)
    if (kind := classify(folder).kind) != "adapter":
        raise InvalidValue(
            f"{folder} 是 {kind}，不是适配器 (adapter)", "给出含有 adapter_config.json 的文件夹"
        )
    return folder


def _load_quantized(folder: Path, adapter: Path | None, dtype: str):
    """`(model, tokenizer)` with NF4 weights, double quantization, computing in `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models.quiet()
    kind = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, quantization_config=nf4_config(kind), use_safetensors=True
    )
    if adapter is not None:
        model = with_adapter(model, adapter)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _parts(batch: Sequence, size: int) -> Iterator[Sequence]:
    return (batch[start : start + size] for start in range(0, len(batch), size))


def _by_token_id(top: dict[str, float]) -> dict[int, float]:
    """vLLM's `{"token_id:198": -0.5, …}` as `{198: -0.5, …}`."""
    return {int(token.removeprefix("token_id:")): value for token, value in top.items()}
