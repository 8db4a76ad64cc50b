"""A candidate behind HTTP, against a small server that speaks vLLM's part of the protocol."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab_utils import export

KEY = "secret"


class Speaks(BaseHTTPRequestHandler):
    """`/tokenize` and `/v1/completions` over a local candidate, in vLLM's shapes."""

    candidate, gives_logprobs, lock = None, True, threading.Lock()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.say(401, {"error": "Unauthorized"})
        if body["model"] != "poet":
            return self.say(404, {"error": f"The model `{body['model']}` does not exist."})
        with self.lock:
            return self.say(200, self.answer(body))

    def answer(self, body):
        if self.path == "/tokenize":
            assert body["add_generation_prompt"]
            ids = self.candidate.prompt_ids(body["messages"])
            return {"count": len(ids), "tokens": ids}
        assert (self.path, body["temperature"]) == ("/v1/completions", 0)
        [done] = self.candidate.greedy([body["prompt"]], body["max_tokens"])
        choice = {"text": done.text, "finish_reason": "stop" if done.ended else "length"}
        if body.get("logprobs") and self.gives_logprobs:
            assert body["return_tokens_as_token_ids"]
            [top] = self.candidate.next_logprobs([body["prompt"]])
            choice["logprobs"] = {"top_logprobs": [{f"token_id:{i}": v for i, v in top.items()}]}
        return {"choices": [choice]}

    def say(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Start a server for a candidate; its address."""
    started = []

    def start(candidate, gives_logprobs=True) -> str:
        handler = type("Handler", (Speaks,), {"candidate": candidate, "gives_logprobs": gives_logprobs})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def gate(questions):
    return lambda a, b: export.parity(a, b, questions, max_new_tokens=8)


def test_the_same_model_served(base, adapter, merged, serve, gate):
    address = serve(export.local(merged))
    for url in (address, address.removesuffix("/v1"), address + "/"):
        report = gate((base, adapter), export.served(url, "poet", KEY))
        assert report.equal, report
        assert report.max_logprob_difference < 1e-3


def test_base_served_by_mistake(base, adapter, serve, gate):
    report = gate((base, adapter), export.served(serve(export.local(base)), "poet", KEY))
    assert report.first_difference.stage == "logits"


def test_server_with_another_template(base, merged, serve, gate):
    other = export.local(merged)
    other.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    report = gate(merged, export.served(serve(other), "poet", KEY))
    assert report.first_difference.stage == "prompt"


def test_server_without_logprobs(merged, serve, gate):
    report = gate(merged, export.served(serve(export.local(merged), gives_logprobs=False), "poet", KEY))
    assert report.equal
    assert report.max_logprob_difference is None


def test_errors_are_said_clearly(merged, serve, gate):
    address = serve(export.local(merged))
    with pytest.raises(RuntimeError, match="401"):
        gate(merged, export.served(address, "poet", "wrong"))
    with pytest.raises(RuntimeError, match="does not exist"):
        gate(merged, export.served(address, "base", KEY))
    with pytest.raises(ConnectionError, match="连不上"):
        gate(merged, export.served("http://127.0.0.1:9/v1", "poet"))
