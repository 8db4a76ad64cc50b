"""A hub on this machine, which speaks what both hubs' clients ask of a download; and folders like models."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NOWHERE = "http://127.0.0.1:9"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "extra.bin": b"unwanted",
}


class Hub(BaseHTTPRequestHandler):
    """The part of both hubs' HTTP interfaces that a download uses, serving `FILES`."""

    wanted: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        name = query["FilePath"][0] if "FilePath" in query else url.path.rsplit("/", 1)[-1]
        tree = [{"Path": n, "Type": "blob", "Size": len(b), "Sha256": sha(b)} for n, b in FILES.items()]
        if url.path.endswith("/repo/files"):
            self.answer(json.dumps({"Code": 200, "Success": True, "Data": {"Files": tree}}).encode())
        elif "/revision/" in url.path:
            siblings = [{"rfilename": n} for n in FILES]
            self.answer(json.dumps({"id": "Qwen/Qwen3-0.6B", "sha": "a" * 40, "siblings": siblings}).encode())
        elif "/tree/" in url.path:
            rows = [{"type": "file", "path": n, "size": len(b), "oid": sha(b)[:40]} for n, b in FILES.items()]
            self.answer(json.dumps(rows).encode())
        elif name in FILES:
            self.wanted.append(name)
            self.answer(FILES[name])
        else:
            self.send_error(404)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha(body)[:40]}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub_server():
    """A hub on this machine; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put_model(folder: Path, without: str = "") -> Path:
    """A folder with the files of a model, less one."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if name != without:
            (folder / name).write_text("{}")
    return folder
