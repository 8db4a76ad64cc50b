"""Correct solutions of many shapes, as students write them: cells of a notebook of lab 00.

CHECK stands where the check cell is run; without one it is run after all others. `python shapes.py` runs each in a
real IPython shell, in a process of its own, and prints as JSON what its check said.
"""

import json
import os
import sys
import tempfile

CHECK = "CHECK"
LINES = '[line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]'
BODY = f"    return [len(line) for line in {LINES}]\n"
PLAIN = f"def line_lengths(text):\n{BODY}"
STUB = 'def line_lengths(text):\n    raise NotImplementedError("练习 line_lengths：在这里写你的代码")'
CUT = 'def cut(text):\n    for mark in MARKS:\n        text = text.replace(mark, "\\n")\n    return [len(line) for line in text.split("\\n") if line]'
BY_CUT = "def line_lengths(text):\n    return cut(text)"
LENGTHS = f"[len(line) for line in {LINES}]"


def _returning(expression: str) -> str:
    """An answer that gives the lengths in another form; `lengths` is the list of them."""
    return f"def line_lengths(text):\n    lengths = {LENGTHS}\n    return {expression}\n"


NAMES_FROM_OTHER_CELLS = {
    "plain": [PLAIN],
    "star import": ["from math import *", _returning("[int(floor(n)) for n in lengths]")],
    "star import shadows a builtin": ["from operator import *", _returning("[n if eq(n, n) else 0 for n in lengths]")],
    "helper": ['MARKS = "，。"', CUT, BY_CUT],
    "helper after the answer": [BY_CUT, 'MARKS = "，。"\n' + CUT],
    "helper after the check": [BY_CUT, 'MARKS = "，。"', CUT],
    "def inside try": [f"try:\n    {CUT.replace(chr(10), chr(10) + '    ')}\nexcept ImportError:\n    pass", 'MARKS = "，。"', BY_CUT],
    "def inside try and finally": ["try:\n    1 / 1\nfinally:\n    def count(line):\n        return len(line)", f"def line_lengths(text):\n    return [count(line) for line in {LINES}]"],
    "def inside if": ["if True:\n    def count(line):\n        return len(line)\nelse:\n    count = None", f"def line_lengths(text):\n    return list(map(count, {LINES}))"],
    "the answer inside if": ["if True:\n    def line_lengths(text):\n    " + BODY],
    "the answer inside try": ["try:\n    import regex_that_is_not_there\nexcept ImportError:\n    def line_lengths(text):\n    " + BODY],
    "import inside with": ["import contextlib\nwith contextlib.suppress(ImportError):\n    import re as regex", 'def line_lengths(text):\n    return [len(line) for line in regex.split("[，。\\n]", text) if line]'],
    "import with a fallback": ["try:\n    import no_such_module as regex\nexcept ImportError:\n    import re as regex", 'def line_lengths(text):\n    return [len(line) for line in regex.split("[，。\\n]", text) if line]'],
    "table filled by for": ["MARKS = {}", 'for mark in "，。":\n    MARKS[mark] = "\\n"', "def line_lengths(text):\n    return [len(line) for line in text.translate(str.maketrans(MARKS)).split() if line]"],
    "table filled by while": ['MARKS = []\nmarks = ["，", "。"]', "while marks:\n    MARKS.append(marks.pop())", CUT, BY_CUT],
    "table filled by append": ["MARKS = []", 'MARKS.append("，")', 'MARKS.append("。")', CUT, BY_CUT],
    "table filled by a function": ["MARKS = []", 'def fill(marks):\n    marks.extend("，。")', "fill(MARKS)", CUT, BY_CUT],
    "table filled through another name": ["MARKS = {'all': []}", "marks = MARKS['all']", 'marks += ["，", "。"]', CUT.replace("MARKS", "MARKS['all']"), BY_CUT],
    "table filled by a comprehension": ["MARKS = []", "[MARKS.append(mark) for mark in '，。']", CUT, BY_CUT],
    "counting": ["from collections import defaultdict\nn = defaultdict(int)", "for word in ['a', 'a']:\n    n[word] += 1", _returning("[x + n['a'] - 2 for x in lengths]")],
    "augmented text": ['MARKS = "，"', 'MARKS += "。"', CUT, BY_CUT],
    "augmented number": ["n = 1", "n -= 1", _returning("[x + n for x in lengths]")],
    "walrus in if": ["if (MARKS := '，。'):\n    pass", CUT, BY_CUT],
    "walrus in a comprehension": ["seen = [last := mark for mark in '，。']", 'MARKS = ["，", last]', CUT, BY_CUT],
    "loop variable": ["for MARKS in ('x', '，。'):\n    pass", CUT, BY_CUT],
    "with as": ["import io\nwith io.StringIO('，。') as file:\n    MARKS = file.read()", CUT, BY_CUT],
    "tuple target": ['(MARKS, *rest), other = ("，。", 1), 2', "MARKS = rest and MARKS or '，。'", CUT, BY_CUT],
    "match": ["match {'marks': '，。'}:\n    case {'marks': MARKS}:\n        pass", CUT, BY_CUT],
    "bound anew": ["MARKS = None", "MARKS = '，。'", CUT, BY_CUT],
    "deleted and bound anew": ["MARKS = None", "del MARKS", "MARKS = '，。'", CUT, BY_CUT],
    "bound anew after the answer": ["MARKS = ''", CUT, BY_CUT, "MARKS = '，。'", CHECK, "MARKS = None"],
    "two helpers of one name": ["def count(x):\n    return len(x)", f"def line_lengths(text):\n    return [count(line) for line in {LINES}]", CHECK, "def count(x):\n    return 0"],
    "wrapped in a later cell": [_returning("tuple(lengths)"), "def as_list(f):\n    return lambda text: list(f(text))", "line_lengths = as_list(line_lengths)"],
    "mended by wrapping": ["def line_lengths(text):\n    return text.split()", f"import functools\nold = line_lengths\n@functools.wraps(old)\ndef better(text):\n{BODY}line_lengths = better"],
    "wrapped after the check": ["def line_lengths(text):\n    return None", CHECK, "wrong = line_lengths", PLAIN.replace("line_lengths", "right"), "line_lengths = right", CHECK],
    "attribute set in a later cell": [f"def line_lengths(text):\n    return [line_lengths.count(line) for line in {LINES}]", "line_lengths.count = len"],
    "attribute set by setattr": [f"def line_lengths(text):\n    return [line_lengths.count(line) for line in {LINES}]", "setattr(line_lengths, 'count', len)"],
    "attribute of a class": ["class Config:\n    marks = ''", "Config.marks = '，。'", CUT.replace("MARKS", "Config.marks"), BY_CUT],
    "registering decorator": ["STEPS = []\ndef step(f):\n    STEPS.append(f)\n    return f", "@step\ndef first(text):\n    return text.replace('，', '\\n')", "@step\ndef second(text):\n    return text.replace('。', '\\n')", "def line_lengths(text):\n    for f in STEPS:\n        text = f(text)\n    return [len(line) for line in text.split('\\n') if line]"],
    "registry of a class": ["class Mark:\n    known = []\n    def __init_subclass__(cls):\n        Mark.known.append(cls.text)", "class Comma(Mark):\n    text = '，'\nclass Stop(Mark):\n    text = '。'", CUT.replace("MARKS", "Mark.known"), BY_CUT],
    "registry of an object": ["class Registry(dict):\n    def add(self, f):\n        self[f.__name__] = f\n        return f\nregistry = Registry()", f"@registry.add\ndef lengths(text):\n{BODY}", "def line_lengths(text):\n    return registry['lengths'](text)"],
    "singledispatch": ["import functools\n@functools.singledispatch\ndef count(x):\n    return None", "@count.register\ndef _(x: str):\n    return len(x)", f"def line_lengths(text):\n    return [count(line) for line in {LINES}]"],
    "global counter": ["calls = 0", f"def line_lengths(text):\n    global calls\n    calls += 1\n    return [len(line) + 0 * calls for line in {LINES}]"],
    "set by a function": ["def prepare():\n    global MARKS\n    MARKS = '，。'", "prepare()", CUT, BY_CUT],
    "redefined builtin": ["def sum(x):\n    return 0", _returning("[n + sum([7]) for n in lengths]")],
    'a builtin imported last': ['from numpy import array, sum', 'def line_lengths(text):\n    lengths = [len(line) for line in [line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]]\n    return [int(n) for n in (sum([[n] for n in lengths], axis=1) if lengths else [])]'],
    'a builtin imported in brackets': ['from numpy import (\n    array,\n    sum\n)', 'def line_lengths(text):\n    lengths = [len(line) for line in [line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]]\n    return [int(n) for n in (sum([[n] for n in lengths], axis=1) if lengths else [])]'],
    'a builtin deleted with others': ['list = [1]', 'x = 1\ndel x, list', 'def line_lengths(text):\n    return list(map(len, [line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]))'],
    'a builtin bound in brackets': ['(zero, len) = (0, lambda x: x.__len__() + 1)', 'def line_lengths(text):\n    return [len(line) - 1 for line in [line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]]'],
    'a long word': [f"BLOB = '{'89ab' * 25000}'\nprint(len(BLOB), BLOB[:4])", "MARKS = '，。'", CUT, BY_CUT],
    "redefined builtin by a loop": ["for max in (len,):\n    pass", f"def line_lengths(text):\n    return [max(line) for line in {LINES}]"],
    "name put into builtins": ["import builtins\nbuiltins.MARKS = '，。'", CUT, BY_CUT],
    "name put into globals": ["globals()['MARKS'] = '，。'", CUT, BY_CUT],
    "name made by exec": ["exec('MARKS = \"，。\"')", CUT, BY_CUT],
    "shuffled": ["import random\nrandom.seed(0)\nMARKS = ['，', '。']", "random.shuffle(MARKS)", CUT, BY_CUT],
    "another cell fails": ["MARKS = '，。'\n1 / 0", CUT, "undefined + 1", BY_CUT],
    "used in a later cell": [PLAIN, CHECK, "data = [1, 2]\nresult = [line_lengths(x) for x in data]"],
}  # fmt: skip

CHANGED_OUT_OF_SIGHT = {
    'bound append in a loop': ['MARKS = []\nadd = MARKS.append', "for m in '，。':\n    add(m)", CUT, BY_CUT],
    'partial of a method': ['import functools\nMARKS = []\nadd = functools.partial(MARKS.append)', "add('，'); add('。')", CUT, BY_CUT],
    'get accessor': ["TABLE = {'all': []}", "marks = TABLE.get('all')", "marks.extend('，。')", CUT.replace('MARKS', "TABLE['all']"), BY_CUT],
    'accessor by function, name': ["TABLE = {'all': []}\ndef table(name):\n    return TABLE[name]", "marks = table('all')", "marks.extend('，。')", CUT.replace('MARKS', "TABLE['all']"), BY_CUT],
    'chained assignment': ['MARKS = marks = []', "marks.append('，')\nmarks.append('。')", CUT, BY_CUT],
    'held in a dict': ['MARKS = []', "state = {'marks': MARKS}", "state['marks'].extend('，。')", CUT, BY_CUT],
    'held by a dataclass': ['from dataclasses import dataclass, field\nMARKS = []\n@dataclass\nclass State:\n    marks: list', 'state = State(MARKS)', "state.marks.extend('，。')", CUT, BY_CUT],
    'default argument is the table': ['MARKS = []', 'def add(mark, marks=MARKS):\n    marks.append(mark)', "add('，')\nadd('。')", CUT, BY_CUT],
    'closure over the table': ['MARKS = []', 'def maker(marks):\n    def add(mark):\n        marks.append(mark)\n    return add\nadd = maker(MARKS)', "add('，')\nadd('。')", CUT, BY_CUT],
    'registry keeps the table': ['MARKS = []', 'class Registry:\n    def __init__(self, marks):\n        self.marks = marks\n    def add(self, mark):\n        self.marks.append(mark)\nregistry = Registry(MARKS)', "registry.add('，')\nregistry.add('。')", CUT, BY_CUT],
    'callable object': ['class Adder:\n    def __init__(self):\n        self.marks = []\n    def __call__(self, mark):\n        self.marks.append(mark)\nadd = Adder()', "add('，')\nadd('。')", CUT.replace('MARKS', 'add.marks'), BY_CUT],
    'object as decorator': ['class Registry:\n    def __init__(self):\n        self.steps = []\n    def __call__(self, f):\n        self.steps.append(f)\n        return f\nstep = Registry()', "@step\ndef first(text):\n    return text.replace('，', '\\n')", "@step\ndef second(text):\n    return text.replace('。', '\\n')", "def line_lengths(text):\n    for f in step.steps:\n        text = f(text)\n    return [len(x) for x in text.split('\\n') if x]"],
    'subclass registry through cls': ['class Mark:\n    known = []\n    def __init_subclass__(cls, **more):\n        super().__init_subclass__(**more)\n        cls.known.append(cls.text)', "class Comma(Mark):\n    text = '，'\nclass Stop(Mark):\n    text = '。'", CUT.replace('MARKS', 'Mark.known'), BY_CUT],
    'metaclass registry': ["class Meta(type):\n    known = []\n    def __new__(mcs, name, bases, space):\n        made = super().__new__(mcs, name, bases, space)\n        mcs.known.append(space.get('text', ''))\n        return made", "class Comma(metaclass=Meta):\n    text = '，'\nclass Stop(metaclass=Meta):\n    text = '。'", CUT.replace('MARKS', '[m for m in Meta.known if m]'), BY_CUT],
    'instances register through self': ['class Mark:\n    known = []\n    def __init__(self, text):\n        self.known.append(text)', "Mark('，')\nMark('。')", CUT.replace('MARKS', 'Mark.known'), BY_CUT],
    'lambda passed to map': ['MARKS = []', "list(map(lambda m: MARKS.append(m), '，。'))", CUT, BY_CUT],
    'lambda in re.sub': ['import re\nMARKS = []', "_ = re.sub('[，。]', lambda m: MARKS.append(m[0]) or '', 'a，b。')", CUT, BY_CUT],
    'comprehension over rows': ['ROWS = [[], []]', "[row.append(m) for row, m in zip(ROWS, '，。')]", CUT.replace('MARKS', '[r[0] for r in ROWS]'), BY_CUT],
    'print into a buffer': ['import io\nbuffer = io.StringIO()', "print('，。', end='', file=buffer)", 'MARKS = buffer.getvalue()', CUT, BY_CUT],
    'getattr call': ['MARKS = []', "for m in '，。':\n    getattr(MARKS, 'append')(m)", CUT, BY_CUT],
    'thread fills it': ["import threading\nMARKS = []\ndef fill():\n    MARKS.extend('，。')", 'worker = threading.Thread(target=fill)', 'worker.start()\nworker.join()', CUT, BY_CUT],
    'numpy view': ['import numpy as np\nTABLE = np.zeros((1, 2), dtype=int)', 'flat = TABLE.reshape(-1)', "flat[0], flat[1] = ord('，'), ord('。')", CUT.replace('MARKS', 'map(chr, TABLE.ravel())'), BY_CUT],
    'torch view': ['import torch\nTABLE = torch.zeros(1, 2, dtype=torch.long)', 'flat = TABLE.view(-1)', "flat[:] = torch.tensor([ord('，'), ord('。')])", CUT.replace('MARKS', 'map(chr, TABLE.flatten().tolist())'), BY_CUT],
    'from_numpy shares': ['import numpy as np, torch\nBASE = np.zeros(2, dtype=np.int64)\nTABLE = torch.from_numpy(BASE)', "BASE[:] = [ord('，'), ord('。')]", CUT.replace('MARKS', 'map(chr, TABLE.tolist())'), BY_CUT],
    'operator overloaded': ['class Bag(list):\n    def __lshift__(self, other):\n        self.append(other)\n        return self\nMARKS = Bag()', "MARKS << '，' << '。'", CUT, BY_CUT],
    'second check after mending': ["MARKS = '，'", CUT, BY_CUT, CHECK, "MARKS = '，。'", CHECK, 'MARKS = None'],
    'cached factory by name': ['import functools\n@functools.cache\ndef marks():\n    return []', 'm = marks()', "m.extend('，。')", CUT.replace('MARKS', 'marks()'), BY_CUT],
    'read only view': ['import types\nbase = {}\nMARKS = types.MappingProxyType(base)', "base.update({'，': 1, '。': 1})", CUT, BY_CUT],
    'loop over names of lists': ['MARKS, other = [], []', "for l in (MARKS, other):\n    l.extend('，。')", CUT, BY_CUT],
    'conditional alias': ['MARKS = []', 'm = MARKS if True else None', "m.extend('，。')", CUT, BY_CUT],
    'singleton': ['class One:\n    _it = None\n    @classmethod\n    def get(cls):\n        if cls._it is None:\n            cls._it = cls(); cls._it.marks = []\n        return cls._it', "One.get().marks.extend('，。')", CUT.replace('MARKS', 'One.get().marks'), BY_CUT],
    'decimal context': ['from decimal import Decimal, getcontext\ngetcontext().prec = 40', 'def line_lengths(text):\n    ok = len(str(Decimal(1) / 3)) > 35\n    return [len(x) if ok else 0 for x in [line for line in text.replace("，", "\\n").replace("。", "\\n").split("\\n") if line]]'],
    'environment': ["import os\nos.environ['MARKS'] = '，。'", 'from os import environ', CUT.replace('MARKS', "environ['MARKS']"), BY_CUT],
}  # fmt: skip
"""Shapes in which the text doesn't show that an object is changed: it has another name, or is held by another."""

AS_IPYTHON_READS_IT = {
    "shell lines into a name": ["x = !echo hello", f"y = !true\n{PLAIN}"],
    "shell line over two lines": ["!echo a \\\n  b\nMARKS = '，。'", CUT, BY_CUT],
    "% at the start of a line": ["n = (7\n% 7)", _returning("[x + n for x in lengths]")],
    "% after a backslash": ["n = 7 \\\n  % 7", _returning("[x + n for x in lengths]")],
    "!= at the start of a line": [f"def line_lengths(text):\n    return [len(line) for line in {LINES} if (line\n!= '')]"],
    "text like magics": [PLAIN.replace("(text):\n", '(text):\n    """\n%time\n!ls\nwhat?\n    """\n')],
    "doctest": [PLAIN.replace("(text):\n", '(text):\n    """\n>>> line_lengths("")\n[]\n    """\n')],
    "%timeit -o": ["r = %timeit -o -n1 -r1 1 + 1", f"t = %timeit -o -n1 -r1 2\n{PLAIN}"],
    "pasted with its prompt": ["In [1]: MARKS = '，。'", CUT, BY_CUT],
    "pasted with >>>": [">>> def line_lengths(text):\n...     text = text.replace('，', '\\n').replace('。', '\\n')\n...     return [len(line) for line in text.split('\\n') if line]"],
    "%env": ["%env MARKS=，。", "import os", CUT.replace("MARKS", "os.environ['MARKS']"), BY_CUT],
    "%time gives a value": ["def make():\n    return '，。'", "MARKS = %time make()", CUT, BY_CUT],
    "%time binds": ["%time MARKS = '，。'", CUT, BY_CUT],
    "%%time": [f"%%time\n{PLAIN}"],
    "%%capture": ["%%capture out\nMARKS = '，。'", CUT, BY_CUT],
    "%%writefile": ["%%writefile marks_of_verse.py\nMARKS = '，。'", "import sys\nsys.path.insert(0, '.')", "from marks_of_verse import MARKS", CUT, BY_CUT],
    "magics around the answer": [f"%precision 3\n!true\n{PLAIN}\nline_lengths?\n%who"],
    "magic in if": ["if True:\n    %time MARKS = '，。'", CUT, BY_CUT],
    "get_ipython": [f"get_ipython().run_line_magic('who', '')\n{PLAIN}"],
    "future annotations": [f"from __future__ import annotations\ndef line_lengths(text: Text) -> Lengths:\n{BODY}"],
    "future annotations of an earlier cell": ["from __future__ import annotations", f"def line_lengths(text: Text) -> Lengths:\n{BODY}"],
    "display in the answer": [PLAIN.replace("(text):\n", "(text):\n    display(text)\n")],
    "imported display": ["from IPython.display import HTML, display", PLAIN.replace("(text):\n", "(text):\n    display(HTML(text))\n")],
    "top-level await": ["import asyncio\nasync def load():\n    await asyncio.sleep(0)\n    return '，。'", "MARKS = await load()", CUT, BY_CUT],
    "top-level async with": ["import contextlib\n@contextlib.asynccontextmanager\nasync def marks():\n    yield '，。'", "async with marks() as MARKS:\n    pass", CUT, BY_CUT],
    "indented cell": ["\n".join(" " + line for line in PLAIN.split("\n"))],
    "indented after a comment": ["MARKS = '，。'", "    # mine\n" + "\n".join("    " + line for line in PLAIN.split("\n"))],
    "Chinese names": ["标点 = '，。'", CUT.replace("MARKS", "标点"), BY_CUT],
    "full-width name": ["ＭＡＲＫＳ = '，。'", CUT, BY_CUT],
    "stub as a comment, a draft elsewhere": ["def line_lengths(text):\n    return []", PLAIN.replace("(text):\n", '(text):\n    # raise NotImplementedError("练习 line_lengths：在这里写你的代码")\n')],
    "stub behind the return": [f'{PLAIN}    raise NotImplementedError("练习 line_lengths：在这里写你的代码")'],
    "the source of the answer": ["import inspect", PLAIN + "SOURCE = inspect.getsource(line_lengths)\nassert 'replace' in SOURCE"],
}  # fmt: skip

OTHER_FORMS = {
    "tuple": [_returning("tuple(lengths)")],
    "deque": ["from collections import deque", _returning("deque(lengths)")],
    "array": ["import array", _returning("array.array('i', lengths)")],
    "UserList": ["from collections import UserList", _returning("UserList(lengths)")],
    "sequence of one's own": ["from collections.abc import Sequence\nclass Mine(Sequence):\n    def __init__(self, x): self.x = x\n    def __len__(self): return len(self.x)\n    def __getitem__(self, i): return self.x[i]", _returning("Mine(lengths)")],
    "namedtuple": ["from collections import namedtuple", _returning("namedtuple('N', [f'n{i}' for i in range(len(lengths))])(*lengths)")],
    "numpy integers": ["import numpy as np", _returning("[np.int64(n) for n in lengths]")],
    "fractions": ["from fractions import Fraction", _returning("[Fraction(n) for n in lengths]")],
    "decimals": ["from decimal import Decimal", _returning("[Decimal(n) for n in lengths]")],
    "floats": [_returning("[float(n) for n in lengths]")],
    "enumeration": ["import enum\nN = enum.IntEnum('N', [f'n{i}' for i in range(1, 30)])", _returning("[N(n) for n in lengths]")],
    "complex": [_returning("[n + 0 * 1j if False else n for n in lengths]")],
    "bytes as numbers": [_returning("bytearray(lengths)")],
    "lambda": [f"line_lengths = lambda text: {LENGTHS}"],
    "partial": ["import functools\ndef count(marks, text):\n" + BODY, "line_lengths = functools.partial(count, '，。')"],
    "cached": ["import functools", f"@functools.lru_cache(maxsize=None)\n{PLAIN}"],
    "object that can be called": [f"class Count:\n    def __call__(self, text):\n    {BODY}", "line_lengths = Count()"],
    "bound method": [f"class Count:\n    def run(self, text):\n    {BODY}", "counter = Count()\nline_lengths = counter.run"],
    "class": [f"class line_lengths(list):\n    def __init__(self, text):\n        super().__init__({LENGTHS})"],
    "closure": [f"def make():\n    calls = 0\n    def inner(text):\n        nonlocal calls\n        calls += 1\n    {BODY}    return inner\nline_lengths = make()"],
    "recursion": ["import sys\nsys.setrecursionlimit(5000)", "def line_lengths(text):\n    def walk(text, n):\n        if not text:\n            return [n] if n else []\n        if text[0] in '，。\\n':\n            return ([n] if n else []) + walk(text[1:], 0)\n        return walk(text[1:], n + 1)\n    return walk(text, 0)"],
    "generator helper": [f"def each(text):\n    yield from {LENGTHS}", "def line_lengths(text):\n    return list(each(text))"],
    "dataclass": ["from dataclasses import dataclass\n@dataclass\nclass Line:\n    text: str\n    def length(self) -> int:\n        return len(self.text)", f"def line_lengths(text):\n    return [Line(line).length() for line in {LINES}]"],
    "default from another cell": ["MARKS = '，。'", CUT.replace("(text)", "(text, marks=MARKS)").replace("in MARKS", "in marks"), BY_CUT],
    "threads": ["from concurrent.futures import ThreadPoolExecutor", f"def line_lengths(text):\n    with ThreadPoolExecutor(2) as pool:\n        return list(pool.map(len, {LINES}))"],
    "torch threads": ["import torch\ntorch.set_num_threads(4)", _returning("[n + int(torch.ones(1200, 1200).matmul(torch.zeros(1200, 1200)).sum()) for n in lengths]")],
    "torch script": ["import torch", "@torch.jit.script\ndef double(x: int):\n    return 2 * x", _returning("[double(n) // 2 for n in lengths]")],
    "torch default dtype": ["import torch", "torch.set_default_dtype(torch.float64)", _returning("[n if torch.ones(1).dtype == torch.float64 else 0 for n in lengths]")],
    "numpy": ["import numpy as np", _returning("np.array(lengths, dtype=int).tolist()")],
}  # fmt: skip

WRITTEN_ELSEWHERE = {
    "above a stub that was left": [PLAIN, STUB],
    "below a stub that was left": [STUB, PLAIN],
    "beside a helper and a stub that was left": [f"{CUT}\n\n{STUB}", "MARKS = '，。'", BY_CUT],
    "everything in one cell": ['MARKS = "，。"\n' + CUT + "\n" + BY_CUT],
}
"""Shapes whose notebooks don't pass when they are run from top to bottom, but did when their cells were run by hand."""

SHAPES = {**NAMES_FROM_OTHER_CELLS, **CHANGED_OUT_OF_SIGHT, **AS_IPYTHON_READS_IT, **OTHER_FORMS}


def passes(cells: list[str]) -> bool:
    """Run the cells in an IPython shell, as a kernel does; whether the last check that was run was passed."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from lab_utils.checks import quickstart

    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    verdict = False
    for cell in cells if CHECK in cells else [*cells, CHECK]:
        if cell == CHECK:
            verdict = quickstart.LINE_LENGTHS.judge(shell.user_ns.get("line_lengths")).ok
        else:
            shell.run_cell(cell)
    return verdict


def main() -> None:
    """Print `{name: whether the notebook's check is passed}`; each shape in a forked process and an empty folder."""
    import IPython.core.interactiveshell  # noqa: F401  once, before the forks

    found = {}
    for name, cells in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as told:
            process = os.fork()
            if process == 0:
                os.chdir(folder)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.write(told.fileno(), b"1" if passes(cells) else b"0")
                os._exit(0)
            os.waitpid(process, 0)
            told.seek(0)
            found[name] = told.read() == b"1"
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
