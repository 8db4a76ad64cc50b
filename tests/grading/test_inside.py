"""What runs inside the sandbox: values on the wire, what is taken of a notebook, what a child may do."""

import ast
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter, OrderedDict, UserList, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from lab_utils import course
from lab_utils.checks.frame import difference
from lab_utils.grading import bubblewrap, sandbox
from lab_utils.grading.conversation import AnswerEnded, Loaded, Request
from lab_utils.grading.inside import cells, slicing, wire


def request(*sources: str, function: str = "f", whole: bool = False) -> Request:
    """A request for a notebook of these cells, of which the last is the answer."""
    return Request(list(sources), len(sources) - 1, function, [], {}, {}, whole)


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


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (deque([1, 2]), [1, 2]), (array("d", [0.5]), [0.5]), (UserList([1]), [1]), (range(3), [0, 1, 2]),
        (bytearray(b"a"), [97]), (memoryview(b"a"), [97]), (Fraction(1, 4), 0.25), (Decimal("0.5"), 0.5),
        (OrderedDict(a=1), {"a": 1}), (MappingProxyType({1: 2}), {1: 2}), (Counter("aa"), {"a": 2}),
        (np.str_("x"), "x"), (torch.Size([2, 3]), (2, 3)), ([np.float64(0.5), np.int8(3), np.True_], [0.5, 3, True]),
    ],
)  # fmt: skip
def test_kinds_that_a_check_takes_for_lists_dicts_and_numbers_arrive_as_such(value, plain):
    got = there_and_back(value)
    assert difference(got, plain, 0.0) is None
    assert difference(value, plain, 0.0) is None or isinstance(value, np.str_)


def test_what_a_child_sends_is_decoded_in_bounded_time_and_memory():
    many_kinds = {"list": [{"other": f"X{i}"} for i in range(5000)]}
    kinds = {type(value) for value in wire.decode(many_kinds)}
    assert len(kinds) <= wire.OTHERS + 1
    assert wire.decode({"other": "X1"}).__class__ is wire.decode({"other": "X1"}).__class__
    with pytest.raises(wire.WireError):
        wire.decode({"list": [0] * (wire.VALUES + 1)})
    colliding = [[{"int": hex(i * (2**61 - 1))}, 0] for i in range(1, wire.ODD_KEYS + 2)]
    with pytest.raises(wire.WireError):
        wire.decode({"dict": colliding})
    assert len(wire.decode({"dict": [[str(i), i] for i in range(50_000)]})) == 50_000
    with pytest.raises(wire.WireError):
        wire.encode([0] * (wire.VALUES + 1))


def test_a_frame_of_too_many_values_is_refused_before_it_is_parsed():
    ours, theirs = socket.socketpair()
    body = b'{"a": [' + b"[]," * (8 * wire.VALUES // 2) + b"0]}"
    sender = threading.Thread(target=theirs.sendall, args=(struct.pack(">I", len(body)) + body,))
    sender.start()
    with ours, theirs, pytest.raises(wire.WireError, match="值太多"):
        wire.receive(ours)
    sender.join()


def test_a_frame_that_drips_in_is_late_however_steadily_it_comes():
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def drip():
        for byte in struct.pack(">I", 1000) + b" " * 1000:
            if over.wait(0.02):
                return
            theirs.send(bytes([byte]))

    sender = threading.Thread(target=drip)
    sender.start()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            wire.receive(ours, until=time.monotonic() + 0.5)
        over.set()
        sender.join()


def taken(sources, target, given=(), whole=False, function="f", wide=False):
    plan = slicing.plan(sources, target, function, list(given), whole, wide)
    assert plan.error is None
    return [ast.unparse(step.statement) for step in plan.steps]


def test_only_what_the_answer_needs_is_taken():
    sources = [
        "import os, math\nprint('x')",
        "K = 3\nmodel = load()",
        "def helper(x):\n    return math.sqrt(x) * K",
        "def f(x):\n    model = 1\n    return helper(x) + model",
    ]
    assert taken(sources, 3) == ["import os, math", "K = 3", *sources[2:]]


def test_the_last_binding_before_the_answer_counts_then_the_first_after():
    assert taken(["K = 1", "K = 2", "def f(): return K, L", "K = 3", "L = 4", "L = 5"], 2) == [
        "K = 2",
        "L = 4",
        "def f():\n    return (K, L)",
    ]


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (["T = {}", "for i in range(3):\n    T[i] = i", "T[9] = K", "K = 9"], 3),
        (["T = []", "def add(x):\n    T.append(x)", "def twice(x):\n    add(x); add(x)", "twice(3)"], 4),
        (["R = {}", "def register(g):\n    R[g.__name__] = g\n    return g", "@register\ndef a(): pass"], 3),
        (["import functools", "@functools.singledispatch\ndef T(x): pass", "@T.register\ndef _(x: int): pass"], 3),
        (["T = [[], []]", "row = T[0]", "row.append(1)"], 3),
        (["def T(): pass", "T.limit = 3", "T(5)"], 2),
        (["n = 0", "def count():\n    global n\n    n += 1", "count()"], 3),
        (["from random import shuffle", "T = [1, 2]", "shuffle(T)", "print(T)", "plot(T[0] + 1)"], 3),
        (["import sys\nexec('T = 1')", "globals()['R'] = 2", "%%writefile T.py\nx = 1"], 3),
        (["if (n := 10) > 3:\n    T = n\nelse:\n    import T", "T += 1"], 2),
        (["import T", "T.set_default(T.float64)", "T.save(model)", "T.plot([1]).show(model)"], 2),
    ],
)  # fmt: skip
def test_what_changes_a_name_is_taken_and_what_only_uses_it_is_not(sources, wanted):
    found = taken([*sources, "def f(): return T, R, n"], len(sources))
    assert len(found) == wanted + 1, found


def test_what_is_bound_anew_is_not_computed():
    assert taken(["T = train(data)", "data = load()", "T = 2", "def f(): return T"], 3)[:-1] == ["T = 2"]


def test_the_state_at_the_check_counts_or_that_at_the_end():
    sources = ["def f(): return K", "K = 1", "f = wrap(f)", "checks.F(f)", "K = 2", "f.limit = 3"]
    assert taken(sources, 0) == ["def f():\n    return K", "K = 1", "f = wrap(f)"]
    assert taken(sources, 0, whole=True) == [
        "def f():\n    return K",
        "K = 1",
        "f = wrap(f)",
        "K = 2",
        "f.limit = 3",
    ]


def test_the_students_own_cells_are_taken_where_it_is_asked_for_up_to_the_last_check():
    given = ["import os\nmodel = train()", "print(os)"]
    sources = [
        *given,
        "T = []\nadd = T.append",
        "add(1)",
        "def f(): return T",
        "checks.F(f)",
        "add(2)",
        "checks.F(f)",
    ]
    own = [
        "T = []",
        "add = T.append",
        "add(1)",
        "def f():\n    return T",
        "checks.F(f)",
        "add(2)",
        "checks.F(f)",
    ]
    assert taken(sources, 4, given) == ["T = []", "add = T.append", "def f():\n    return T"]
    assert taken([*sources, "T = None"], 4, given, wide=True) == own


def test_a_long_word_takes_no_time():
    begin = time.perf_counter()
    assert taken([f"BLOB = '{'89ab' * 25_000}'\nprint(len(BLOB))", "def f(x): return len(x)"], 1)
    assert time.perf_counter() - begin < 2


def test_training_with_the_answer_is_not_run_for_it():
    sources = [
        "import torch\nmodel = torch.nn.Linear(2, 2)",
        "def f(x): return torch.relu(x)",
        "checks.F(f)",
        "for step in range(10**6):\n    loss = f(model(batch)).sum()\n    loss.backward()",
        "history = [f(x) for x in data]\nplt.plot(history)",
    ]
    assert taken(sources, 1, whole=True) == ["import torch", sources[1].replace(": ", ":\n    ")]


def test_an_import_that_was_deleted_is_taken_from_what_was_given_out():
    assert (
        taken(["def f(): return np.e"], 0, ["import torch", "import numpy as np"])[0] == "import numpy as np"
    )


def test_names_that_nothing_binds_are_told_and_names_of_python_are_not():
    sources = ["def f(x):\n    return len(x) + K", "for i in range(3): print(i, __name__)"]
    assert slicing.plan(sources, 0, "f").unbound == ("K",)
    assert slicing.plan(["from math import *", *sources], 1, "f").unbound == ()


@pytest.mark.parametrize(
    ("source", "statements"),
    [
        ("%%time\n%matplotlib inline\n!ls\nx?\ndef f(): return 1", 4),
        ("x = (3\n% 2\n!= 4)", ["x = 3 % 2 != 4"]),
        ("x = 3 \\\n  % 2", ["x = 3 % 2"]),
        ('s = """\n%time\n!ls\n"""', ["s = '\\n%time\\n!ls\\n'"]),
        ("!pip install a \\\n  b\nx = 1", 2),
        ("if 1:\n    %time x = f()", ["if 1:\n    x = f()"]),
        (" y = 1\n z = 2", ["y = 1", "z = 2"]),
        ("%time --what", 1),
        ("%%bash\nrm -rf /", 1),
        ("%%capture out\nx = 1", ["x = 1"]),
    ],
)
def test_cells_are_read_as_ipython_reads_them(source, statements):
    cell = cells.parse(source)
    assert cell.error is None
    found = [ast.unparse(statement) for statement in cell.statements]
    assert found == statements if isinstance(statements, list) else len(found) == statements


def test_a_syntax_error_is_the_answers_own():
    assert slicing.plan(["def g(:", "def f(): return 1"], 1, "f").error is None
    assert isinstance(slicing.plan(["def g(:", "def f(): return 1"], 0, "f").error, SyntaxError)
    assert type(slicing.plan(["def f():\n    return 1\n  x"], 0, "f").error) is IndentationError


def test_without_the_sandbox_the_same_answers():
    """The way for a teacher who accepts the risk."""
    with sandbox.Sandbox(confined=False) as box, box.answer() as answer:
        assert answer.load(request("def f(x):\n    return x * 2")) == Loaded()
        assert answer.call((21,)).value == 42


def test_without_the_sandbox_the_scratch_folder_is_one_of_its_own_and_goes():
    """And nothing else is cleared away: not what lies in /tmp."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as other, sandbox.Sandbox(confined=False) as box:
        for _ in range(2):
            with box.answer() as answer:
                answer.load(
                    request("import os\nopen('x', 'w').close()\ndef f(): return os.getcwd(), os.listdir('.')")
                )
                folder, files = answer.call(()).value
                assert files == ["x"]
        assert Path(other.name).exists()
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


def test_without_the_sandbox_the_code_runs_as_the_user_who_grades():
    """Another user might not be able to read Python; the marks would be wrong."""
    with sandbox.Sandbox(confined=False) as box, box.answer() as answer:
        answer.load(request("import os\ndef f(): return os.getuid()"))
        assert answer.call(()).value == os.getuid()


@pytest.mark.slow
def test_it_starts_where_python_and_the_course_lie_below_tmp(tmp_path):
    assert Path("/tmp") in tmp_path.parents
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    program = "from lab_utils.grading import sandbox; print(repr(sandbox.available()))"
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", program],
        env={**os.environ, "PYTHONPATH": str(course.root())},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "''", done.stdout + done.stderr


def test_where_bubblewrap_is_missing_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install bubblewrap" in sandbox.available()
    assert "--unsandboxed" in sandbox.available()


def test_folders_that_would_be_seen_are_covered(tmp_path):
    """A course or submissions under a mounted folder are hidden by an empty file system."""
    share = (Path(sys.prefix) / "share").resolve()
    command = bubblewrap.command([share, tmp_path])
    assert command[command.index(str(share)) - 1] == "--tmpfs"
    assert str(tmp_path) not in command
    assert all(part not in command for part in ("--share-net", "--bind", "--dev-bind"))
    assert "--unshare-net" in command or "--unshare-all" in command


def test_a_sandbox_serves_again_after_every_way_to_end():
    limits = sandbox.Limits(load_seconds=5, case_seconds=1, total_seconds=10, memory_mib=200)
    scratch = "import tempfile\ntmp = tempfile.gettempdir()\n"  # not /tmp where this checkout lies below it
    endings = {
        "import os\ndef f(): os._exit(3)": "ended",
        "def f():\n    while True: pass": "time",
        "def f():\n    held = []\n    while True:\n        try: held.append(bytearray(10**7))\n        except MemoryError: pass": None,
        f"{scratch}def f():\n    i = 0\n    while i < 300:\n        open(f'{{tmp}}/{{i}}', 'w'); i += 1\n    import os; os._exit(0)": None,
        f"{scratch}def f():\n    i = 0\n    while True:\n        open(f'{{tmp}}/{{i}}', 'w').close(); i += 1": "files",
    }
    with sandbox.Sandbox(limits=limits) as box:
        for code, why in endings.items():
            with box.answer() as answer:
                answer.load(request(code))
                with pytest.raises(AnswerEnded) as ended:
                    answer.call(())
            assert why is None or ended.value.why == why
            with box.answer() as answer:
                answer.load(request(f"{scratch}import os\ndef f(): return os.listdir(tmp)"))
                assert answer.call(()).value == []


def test_nothing_of_one_child_reaches_the_next():
    """Builtins, modules, environment, files, and what the scratch folder itself can carry."""
    first = """
import builtins, math, os
builtins.kept = math.kept = os.environ['KEPT'] = 'x'
open('/tmp/kept', 'w').close()
for change in (lambda: os.chmod('.', 0o1700), lambda: os.utime('.', (77, 77)), lambda: os.setxattr('.', 'user.kept', b'x')):
    try: change()
    except OSError: pass
def f(): return True
"""
    second = """
import builtins, math, os
def f():
    state = os.stat('.')
    return [
        hasattr(builtins, 'kept'), hasattr(math, 'kept'), 'KEPT' in os.environ, os.listdir('.'), oct(state.st_mode & 0o7777),
        state.st_mtime == 77, os.listxattr('.'), sorted(os.listdir('/proc/self/fd'))[4:],
    ]
"""
    with sandbox.Sandbox() as box:
        for code in (first, second):
            with box.answer() as answer:
                answer.load(request(code))
                found = answer.call(()).value
    assert found == [False, False, False, [], "0o1777", False, [], found[-1]]


def test_a_child_has_no_descriptor_but_its_own_socket():
    with sandbox.Sandbox() as box, box.answer() as answer:
        code = "import os, stat\ndef f(): return [fd for fd in range(3, 99) if is_socket(fd)]\n"
        code += "def is_socket(fd):\n    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)\n    except OSError: return False"
        answer.load(request(code))
        assert len(answer.call(()).value) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("os.fork()", "PermissionError"),
        ("__import__('subprocess').run(['/bin/true'])", "PermissionError"),
        ("__import__('socket').socket()", "PermissionError"),
        ("os.memfd_create('x')", "PermissionError"),
        ("os.setxattr('.', 'user.x', b'x')", "PermissionError"),
        ("os.mkfifo('x')", "PermissionError"),
        ("__import__('mmap').mmap(-1, 4096)", "PermissionError"),
        ("__import__('fcntl').flock(os.open(os.__file__, 0), 1)", "PermissionError"),
        ("__import__('fcntl').lockf(os.open(os.__file__, 0), 1)", "PermissionError"),
        ("os.sched_setaffinity(0, [0])", "PermissionError"),
        ("os.pidfd_open(1)", "OSError"),
    ],
)
def test_calls_that_are_not_on_the_list_are_refused(code, why):
    with sandbox.Sandbox() as box, box.answer() as answer:
        answer.load(request(f"import os\ndef f(): return {code}"))
        assert answer.call(()).error.kind == why


def test_threads_are_allowed_up_to_a_number():
    code = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
def f():
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(abs, [-1, -2]))
    started = 0
    try:
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
            started += 1
    except RuntimeError: pass
    return found, started
"""
    with sandbox.Sandbox() as box, box.answer() as answer:
        answer.load(request(code))
        found, started = answer.call(()).value
    assert found == [1, 2] and 4 <= started < 100


def test_folders_of_the_system_that_others_write_into_are_empty():
    with sandbox.Sandbox() as box, box.answer() as answer:
        answer.load(request("import os\ndef f(path): return os.path.isdir(path) and os.listdir(path)"))
        for path in ("/usr/src", "/usr/local/share/nbgrader"):
            assert not answer.call((path,)).value


def test_root_must_become_another_user_or_be_mapped_to_one():
    """In a process of its own, as what is tried can't be undone."""
    program = "import os, sys; sys.path.insert(0, sys.argv[1]); from inside import server\nserver.become(60706)\nprint(os.getresuid(), server._is_mapped())"
    command = [sys.executable, "-P", "-c", program, str(bubblewrap.INSIDE.parent)]
    if os.getuid() == 0:
        assert subprocess.check_output(command, text=True).strip() == "(60706, 60706, 60706) False"
        kept = ["setpriv", "--bounding-set", "-setuid", "--inh-caps", "-setuid"]
        if shutil.which("setpriv"):
            refused = subprocess.run([*kept, *command], capture_output=True, text=True)
            assert refused.returncode and "Operation not permitted" in refused.stderr
    else:
        assert subprocess.check_output(command, text=True).startswith(f"({os.getuid()},")


def test_a_function_under_another_name_is_no_stub_of_the_course():
    """The notebook as given out lends what was deleted, but not the answer."""
    given = ["import math", "def f(x):\n    raise NotImplementedError"]
    with sandbox.Sandbox() as box, box.answer() as answer:
        loaded = answer.load(Request(["def g(x): return math.pi"], 0, "f", given, {}, {}))
    assert loaded.undefined


def test_a_loop_elsewhere_leaves_time_for_the_answer():
    limits = sandbox.Limits(statement_seconds=0.5)
    sources = [
        "T = []",
        "while True:\n    T.append(1); del T[:-1]",
        "import time\ntime.sleep(9)\ndef f(): return T",
    ]
    with sandbox.Sandbox(limits=limits) as box, box.answer() as answer:
        loaded = answer.load(request(*sources))
        assert [(cell, error.kind) for cell, error in loaded.others] == [(2, "_TooLong")]
        assert answer.call(()).value == [1]
