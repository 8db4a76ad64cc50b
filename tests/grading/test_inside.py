"""What runs inside the sandbox: values on the wire, what is taken of a notebook, what a child may do."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lab_utils.checks.frame import difference
from lab_utils.grading import sandbox
from lab_utils.grading.inside import slicing, wire


def there_and_back(value):
    return wire.decode(json.loads(json.dumps(wire.encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**70), 1.5, math.inf, math.nan, 1e-320, "字\ud800\n", b"\x00\xff", 2 + 3j,
        [1, [2, (3, "x")], {"a": None, 2: [1.0]}], (), {}, np.float32(1.5), np.arange(6).reshape(2, 3)[:, ::2],
        np.array(True), torch.randn(2, 3).T, torch.tensor(2.5, requires_grad=True), torch.zeros(0, 3),
        torch.ones(3, dtype=torch.bfloat16), torch.tensor([True, False]), np.zeros((2, 0)),
    ],
)  # fmt: skip
def test_plain_values_come_back_the_same(value):
    got = there_and_back(value)
    assert type(got) is type(value)
    assert (
        got == value
        if value is None or isinstance(value, (str, bytes, complex))
        else difference(got, value, 0.0) is None
    )


def test_what_is_not_plain_comes_back_as_the_name_of_its_type():
    class Always:
        def __eq__(self, other):
            return True

    for value, name in (
        (Always(), "Always"),
        ({1}, "set"),
        (iter([]), "list_iterator"),
        (sys, "module"),
        (len, None),
    ):
        got = there_and_back(value)
        assert isinstance(got, wire.Other)
        assert name is None or type(got).__name__ == name
    assert type(wire.decode({"other": "list"})).__name__ != "list"
    assert wire.decode({"other": "Tensor"}) != torch.zeros(1)


@pytest.mark.parametrize(
    "data",
    [
        {"torch": ["float32", [2**31, 2**31], ""]}, {"torch": ["object", [1], ""]}, {"numpy": ["O", [1], "AAAAAAAAAAA="]},
        {"numpy": ["<f8", [-1], ""]}, {"numpy": ["<f8", [1], "!"]}, {"int": "9" * 5000}, {"dict": [[{"list": []}, 1]]},
        {"list": None}, {"a": 1, "b": 2}, [1], {"pickle": "gASV"}, {"torch": ["float32"]}, {"float": "abc"},
    ],
)  # fmt: skip
def test_what_encode_never_writes_is_refused(data):
    with pytest.raises(wire.WireError):
        wire.decode(data)


def test_depth_is_limited_both_ways():
    value: list = []
    value.append(value)
    with pytest.raises(wire.WireError):
        wire.encode(value)
    data: dict = {"list": []}
    for _ in range(100):
        data = {"list": [data]}
    with pytest.raises(wire.WireError):
        wire.decode(data)


def taken(cells, target, fallback=()):
    import ast

    statements, error = slicing.plan(cells, target, list(fallback))
    assert error is None
    return [ast.unparse(statement) for _, statement in statements]


def test_only_what_the_answer_needs_is_taken():
    cells = [
        "import os, math\nprint('x')",
        "K = 3\nmodel = load()",
        "def helper(x):\n    return math.sqrt(x) * K",
        "def f(x):\n    model = 1\n    return helper(x) + model",
    ]
    assert taken(cells, 3) == ["import os, math", "K = 3", *cells[2:]]


def test_the_last_binding_before_the_answer_counts_then_the_first_after():
    assert taken(["K = 1", "K = 2", "def f(): return K, L", "K = 3", "L = 4", "L = 5"], 2) == [
        "K = 2",
        "L = 4",
        "def f():\n    return (K, L)",
    ]


def test_an_import_that_was_deleted_is_taken_from_what_was_given_out():
    assert (
        taken(["def f(): return np.e"], 0, ["import torch", "import numpy as np"])[0] == "import numpy as np"
    )


def test_magics_and_shell_lines_are_no_python():
    assert (
        taken(["%%time\n%matplotlib inline\n!ls\nx?\ndef f(): return 1\nif 1:\n    %pip list"], 0)[-1]
        == "if 1:\n    pass"
    )
    assert taken(["%%bash\nrm -rf /"], 0) == []


def test_a_syntax_error_is_the_answers_own():
    assert slicing.plan(["def g(:", "def f(): return 1"], 1, [])[1] is None
    assert isinstance(slicing.plan(["def g(:", "def f(): return 1"], 0, [])[1], SyntaxError)


def test_without_the_sandbox_the_same_answers():
    """The way for a teacher who accepts the risk."""
    with sandbox.Sandbox(confined=False) as box, box.answer() as answer:
        assert answer.load(["def f(x):\n    return x * 2"], 0, "f", [], {}, {}) == {"error": None}
        assert answer.call((21,)).value == 42


def test_where_bubblewrap_is_missing_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install bubblewrap" in sandbox.available()
    assert "--unsandboxed" in sandbox.available()


def test_folders_that_would_be_seen_are_covered(tmp_path):
    """A course or submissions under a mounted folder are hidden by an empty file system."""
    share = (Path(sys.prefix) / "share").resolve()
    command = sandbox.command([share, tmp_path])
    assert command[command.index(str(share)) - 1] == "--tmpfs"
    assert str(tmp_path) not in command
    assert all(part not in command for part in ("--share-net", "--bind", "--dev-bind"))
    assert "--unshare-net" in command or "--unshare-all" in command


def test_a_sandbox_serves_again_after_every_way_to_end():
    limits = sandbox.Limits(load_seconds=5, case_seconds=1, total_seconds=10, memory_mib=200)
    endings = {
        "import os\ndef f(): os._exit(3)": "ended",
        "def f():\n    while True: pass": "time",
        "def f():\n    held = []\n    while True:\n        try: held.append(bytearray(10**7))\n        except MemoryError: pass": None,
        "def f():\n    i = 0\n    while i < 3000:\n        open(f'/tmp/{i}', 'w'); i += 1\n    import os; os._exit(0)": None,
    }
    with sandbox.Sandbox(limits=limits) as box:
        for code, why in endings.items():
            with pytest.raises(sandbox.AnswerEnded) as ended, box.answer() as answer:
                answer.load([code], 0, "f", [], {}, {})
                answer.call(())
            assert why is None or ended.value.why == why
            with box.answer() as answer:
                answer.load(["import os\ndef f(): return os.listdir('/tmp')"], 0, "f", [], {}, {})
                assert answer.call(()).value == []
