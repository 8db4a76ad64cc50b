"""A real vLLM server: it serves what it is asked to, is asked a known answer, and leaves nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import openai
import psutil
import pytest

from lab_utils import export, models, serving
from lab_utils.guard import session_members, shared_memory
from lab_utils.serving import clients, known_answer
from lab_utils.serving import vllm_server as module
from lab_utils.setup_environment import ROOT, find_vllm
from tests.serving.proxies import BROKEN_PROXIES
from tests.waiting import PATIENCE, wait_until

BASE = models.ASSETS / models.SHIPPED
QUESTION = [{"role": "user", "content": "请写一首五言绝句，题目是《春江》。"}]


OWNER = """
import json, os, sys, time
from lab_utils import models, serving

options = {"name": "base", "log": sys.argv[1], "max_model_len": 256, "check": False}
server = serving.serve(models.ASSETS / models.SHIPPED, {"poet": models.shipped_adapter()}, **options)
fork = os.fork()  # holds the guard's pipe, and lives on
if fork == 0:
    sys.stdout.close()
    time.sleep(3600)
    os._exit(0)
names = ("base_url", "port", "api_key", "names", "dtype", "command", "pid", "seconds")
facts = {name: getattr(server, name) for name in names} | {"repr": repr(server), "fork": fork}
print(json.dumps({**facts, "log": str(server.log), "scratch": str(server.process.scratch)}), flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What a real server says of itself, started where the environment names a proxy that isn't there; in the
    end its owner is killed, a fork of which lives on."""
    log = tmp_path_factory.mktemp("server") / "logs" / "vllm.log"
    environment = {**os.environ, **BROKEN_PROXIES}
    command = [sys.executable, "-P", "-c", OWNER, str(log)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        try:
            facts = json.loads(next(line for line in owner.stdout if line.startswith("{")))
            yield SimpleNamespace(**facts)
            members = session_members(facts["pid"])
            assert len(members) >= 3  # guard, interface, engine
            held = held_memory(members)
        finally:
            owner.kill()
    wait_until(lambda: session_members(facts["pid"]) == [])
    wait_until(lambda: not Path(facts["scratch"]).exists() and not any(file.exists() for file in held))
    assert not answers(facts["port"])
    assert psutil.Process(facts["fork"]).is_running()
    os.kill(facts["fork"], signal.SIGKILL)


def held_memory(pids: list[int]) -> set[Path]:
    """Files of shared memory that these processes hold; other tests' servers have their own."""
    held = set().union(*map(shared_memory, pids))
    assert held
    return held


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def candidate(server, name: str) -> export.Served:
    return export.served(server.base_url, name, server.api_key)


def _answer(server, name: str) -> str:
    asked = {"messages": QUESTION, "temperature": 0, "max_tokens": 40}
    with clients.connect(server.base_url, server.api_key) as client:
        return client.chat.completions.create(model=name, **asked).choices[0].message.content


@pytest.mark.slow
def test_base_and_adapter_answer_differently_and_as_transformers_do(server):
    assert server.names == ["base", "poet"] and server.dtype == "float32" and server.seconds > 0
    for name, adapter in (("base", None), ("poet", models.shipped_adapter())):
        reference = export.local(BASE, adapter)
        assert _answer(server, name) == reference.greedy([reference.prompt_ids(QUESTION)], 40)[0].text
    assert _answer(server, "base") != _answer(server, "poet")


@pytest.mark.slow
def test_the_key_is_asked_for_and_shown_nowhere(server):
    for key, status in (("wrong", 401), (server.api_key, 404)):
        with (
            pytest.raises(openai.APIStatusError) as caught,
            clients.connect(server.base_url, key) as client,
        ):
            client.completions.create(model="absent", prompt="春")
        assert caught.value.status_code == status
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in session_members(server.pid)]
    for text in (Path(server.log).read_text(), server.command, server.repr, *arguments):
        assert server.api_key not in text
    assert "--max-lora-rank 16" in server.command and str(ROOT) not in server.command
    assert "运行中" in server.repr


@pytest.mark.slow
def test_a_port_in_use_is_refused_with_its_user(server):
    """The name of that process is not held to anything: vLLM changes it some time after the start."""
    with pytest.raises(OSError, match=rf"端口 \(port\) {server.port} 用不了") as caught:
        serving.serve(BASE, port=server.port)
    pid, name = re.search(r"进程 (\d+)（(.*)）正在用它。请先停掉它", str(caught.value)).groups()
    assert int(pid) in session_members(server.pid) and name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "name", "dtype", "said"),
    [
        (None, "poet", "float32", "对数概率相差"),  # the adapter answers for the base
        (models.shipped_adapter(), "base", "float32", "对数概率相差"),  # the base answers for the adapter
        (
            models.shipped_adapter(),
            "base",
            "bfloat16",
            "对数概率相差",
        ),  # which a wide tolerance lets by as little
    ],
)
def test_the_known_answer_catches_another_model(server, adapter, name, dtype, said):
    assert said in known_answer.difference(export.local(BASE, adapter), candidate(server, name), dtype)


@pytest.mark.slow
def test_the_known_answer_catches_another_dtype_and_passes_the_right_one(server):
    half, full = export.local(BASE, dtype="bfloat16"), export.local(BASE)
    assert "对数概率相差" in known_answer.difference(half, candidate(server, "base"), "float32")
    assert known_answer.difference(half, candidate(server, "base"), "bfloat16") is None
    assert known_answer.difference(full, candidate(server, "base"), "float32") is None


@pytest.mark.slow
def test_a_flag_that_vllm_does_not_know_is_named_and_nothing_left(tmp_path):
    before = psutil.Process().children(recursive=True)
    with pytest.raises(serving.ServerError, match="不认识参数 --no-such-flag") as caught:
        serving.serve(BASE, no_such_flag=1, log=tmp_path / "vllm.log")
    assert str(tmp_path / "vllm.log") in str(caught.value)
    wait_until(lambda: set(psutil.Process().children(recursive=True)) <= set(before))


def test_what_can_be_known_before_the_start_is_said_before_it(monkeypatch, tmp_path):
    def never(*_, **__):
        raise AssertionError("it was started")

    monkeypatch.setattr(module, "Server", never)
    with pytest.raises(ValueError, match="都叫 'xiaoshi-base'"):
        serving.serve(BASE, {"xiaoshi-base": models.shipped_adapter()})
    with pytest.raises(serving.AdapterError, match="不是适配器"):
        serving.serve(BASE, {"poet": BASE})
    with pytest.raises(ValueError, match="不能用"):
        serving.serve(tmp_path)
    monkeypatch.setattr(module, "find_vllm", lambda: None)
    for remedy, said in (("do this", "请在课程文件夹里运行：do this"), ("", "这个平台上装不了 vLLM")):
        monkeypatch.setattr(module, "vllm_remedy", lambda remedy=remedy: remedy)
        with pytest.raises(serving.VllmMissing, match=said):
            serving.serve(BASE)


def test_a_gpu_build_is_started_plainly():
    adapters = {"a": serving.adapter.Adapter(Path("/a"), 8), "b": serving.adapter.Adapter(Path("/b"), 20)}
    argv = module.vllm_argv(
        Path("python"),
        "0.32.0",
        Path("/m"),
        "m",
        adapters,
        "bfloat16",
        1,
        {"max_model_len": "8K", "x": False},
    )
    assert argv[:4] == ["python", "-P", "-m", "vllm.entrypoints.openai.api_server"]
    line = " ".join(argv)
    assert "--max-lora-rank 32 --max-loras 2 --lora-modules a=/a b=/b --max-model-len 8K --no-x" in line
    assert "--enforce-eager" not in line and "OMP_NUM_THREADS" not in module.vllm_environment("0.32.0")


def test_every_flag_that_serve_uses_exists_in_the_installed_vllm():
    python, version = find_vllm()
    adapters = {"a": serving.adapter.Adapter(Path("/a"), 8)}
    used = re.findall(
        r"--([a-z-]+)", " ".join(module.vllm_argv(python, version, BASE, "m", adapters, "float32", 1, {}))
    )
    sources = Path(python).parent.parent.glob("lib/python*/site-packages/vllm/engine/arg_utils.py")
    text = next(sources).read_text(encoding="utf-8")
    others = {"host", "port", "lora-modules", "served-model-name"}
    assert [flag for flag in used if flag not in others and f'"--{flag}"' not in text] == []


@pytest.mark.slow
def test_nothing_is_left_of_a_server_whose_owner_is_killed_while_it_starts():
    """One of the ways to end; how a process ends in every way, vLLM or not, is in tests/test_processes.py."""
    command = [sys.executable, "tests/benchmarks/bench_server_stops.py", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ways"]["kill while starting"] == 1 and result["left"] == 0, result


@pytest.mark.slow
def test_labs_serve_tells_how_to_ask_and_stops_at_ctrl_c():
    """Its known answer is asked for, too, past the proxy."""
    labs = Path(sys.executable).with_name("labs")
    command = [labs, "serve", "xiaoshi-base", "--adapter", f"poet={models.shipped_adapter()}"]
    environment = {**os.environ, **BROKEN_PROXIES, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line == "按 Ctrl-C 停止 (stop)\n":
                    break
            text = "".join(lines)
            assert "已知答案检查通过：xiaoshi-base、poet" in text
            key, curl = re.search(r"OPENAI_API_KEY=(\S+)\n(curl .*)", text, re.DOTALL).groups()
            answer = subprocess.run(
                curl, shell=True, capture_output=True, text=True, env=environment | {"OPENAI_API_KEY": key}
            )
            assert json.loads(answer.stdout)["model"] == "poet"
            started = psutil.Process(process.pid).children(recursive=True)
            held = held_memory([child.pid for child in started])
            process.terminate()
            rest = process.stdout.read()
            assert process.wait(PATIENCE) == 0 and "已停止" in rest
            assert len(started) >= 3 and not psutil.wait_procs(started, PATIENCE)[1]
        finally:
            process.kill()
    assert not answers(int(re.search(r"127\.0\.0\.1:(\d+)", text)[1]))
    assert not any(file.exists() for file in held)
