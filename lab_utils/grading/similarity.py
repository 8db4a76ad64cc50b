"""Answers that are more alike than independent work explains.

An answer is compared as code: comments, docstrings and annotations gone, local names numbered in the order in which
they appear. Two answers that are alike say nothing when half the class writes the same, or when both are what the
model answer is; and short answers are bound to agree. So what counts is how many tokens two answers share that
neither the model answer nor a common way to write it has. The result points out where to look; it proves nothing.
"""

import ast
import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lab_utils.grading.inside import cells

ALIKE = 0.9
"""Answers at least this similar (normalised Indel similarity of their tokens) count as the same."""
FEW = 3
"""Answers of a class that may be the same and still count as uncommon; or 5 % of it, whichever is more."""
NOVEL_TOKENS = 18
"""Uncommon tokens, over all exercises of a lab, that two students must share to be pointed out; about two lines."""
VERBATIM = 150
"""Characters of an answer, comments and names and all, that two students don't write by chance."""
SOURCE_LIMIT, TOKEN_LIMIT = 20_000, 3_000
"""Characters of an answer, and tokens of it, that are compared; an exercise takes some twenty lines."""
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Group:
    """Students whose answers to a lab are alike. `exercises` are those that say so, `example` the most telling."""

    students: tuple[str, ...]
    exercises: tuple[str, ...]
    similarity: float
    """Of the least similar two that were pointed out."""
    verbatim: bool
    """Some answer is the same to the letter, comments and names included."""
    example: str


def groups(answers: Mapping[str, Mapping[str, str]], known: Mapping[str, Sequence[str]]) -> list[Group]:
    """The groups of like answers to one lab, the most alike first.

    answers: student -> exercise -> source; known: exercise -> sources that everybody has (stub, model answer).
    """
    shared: dict[tuple[str, str], dict[str, tuple[float, float, bool]]] = {}
    for exercise in sorted({name for own in answers.values() for name in own}):
        written = {student: own[exercise] for student, own in sorted(answers.items()) if own.get(exercise)}
        for pair, found in _alike(written, known.get(exercise, ())).items():
            shared.setdefault(pair, {})[exercise] = found
    evidence = {
        pair: found
        for pair, found in shared.items()
        if sum(novel for _, novel, _ in found.values()) >= NOVEL_TOKENS
        or any(v for _, _, v in found.values())
    }
    return sorted(
        (_group(part, evidence) for part in _components(evidence)), key=lambda g: (-g.similarity, g.students)
    )


def _alike(
    written: Mapping[str, str], known: Sequence[str]
) -> dict[tuple[str, str], tuple[float, float, bool]]:
    """Pairs of students -> similarity, shared uncommon tokens, verbatim or not; of one exercise."""
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    students = list(written)
    if len(students) < 2:
        return {}
    forms = [tokens(written[student]) for student in students]
    table = cdist(forms, forms, scorer=Indel.normalized_similarity)
    common = [
        form
        for form, row in zip(forms, table, strict=True)
        if (row >= ALIKE).sum() > max(FEW, 0.05 * len(forms))
    ]
    given = [tokens(source) for source in known]
    own = [_novelty(form, given) for form in forms]
    novel = [_novelty(form, [*given, *dict.fromkeys(common)]) for form in forms]
    plain = [_letters(written[student]) for student in students]
    found = {}
    for i, first in enumerate(students):
        for j in range(i + 1, len(students)):
            verbatim = plain[i] == plain[j] and len(plain[i]) >= VERBATIM and own[i] > 0
            if table[i][j] >= ALIKE and (verbatim or min(novel[i], novel[j]) > 0):
                found[first, students[j]] = (float(table[i][j]), min(novel[i], novel[j]), verbatim)
    return found


def _novelty(form: tuple[str, ...], everyday: Sequence[tuple[str, ...]]) -> float:
    """How many tokens of an answer the nearest everyday one doesn't have; 0 when it is one of them."""
    from rapidfuzz.distance import Indel

    nearest = max((Indel.normalized_similarity(form, other) for other in everyday), default=0.0)
    return 0.0 if nearest >= ALIKE else (1 - nearest) * len(form)


def _letters(source: str) -> str:
    return "\n".join(line.rstrip() for line in source.strip().split("\n"))


def _components(pairs: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The pairs, those that hang together in one list."""
    leader: dict[str, str] = {}

    def lead(student: str) -> str:
        while leader.setdefault(student, student) != student:
            leader[student] = student = leader[leader[student]]
        return student

    pairs = sorted(pairs)
    for first, second in pairs:
        leader[lead(first)] = lead(second)
    parts: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        parts.setdefault(lead(pair[0]), []).append(pair)
    return list(parts.values())


def _group(
    part: list[tuple[str, str]], evidence: Mapping[tuple[str, str], Mapping[str, tuple[float, float, bool]]]
) -> Group:
    entries = [(name, *found) for pair in part for name, found in evidence[pair].items()]
    return Group(
        tuple(sorted({student for pair in part for student in pair})),
        tuple(sorted({name for name, *_ in entries})),
        min(similarity for _, similarity, _, _ in entries),
        any(verbatim for *_, verbatim in entries),
        max(entries, key=lambda entry: (entry[3], entry[2]))[0],
    )


def tokens(source: str) -> tuple[str, ...]:
    """The code of an answer as tokens: what is left when the names and the prose are anybody's.

    Of an answer beyond all measure only the beginning is taken.
    """
    lines = (line.rstrip() for line in source[:SOURCE_LIMIT].split("\n"))
    source = "\n".join(line for line in lines if line)
    try:
        cell = cells.parse(source)
        if cell.statements and not cell.error:
            tree = _Anonymous().visit(ast.Module(copy.deepcopy(list(cell.statements)), []))
            source = ast.unparse(ast.fix_missing_locations(tree))
    except (RecursionError, ValueError, MemoryError):  # of a depth that no answer has
        pass
    return tuple(_TOKEN.findall(source)[:TOKEN_LIMIT])


class _Anonymous(ast.NodeTransformer):
    """Drops docstrings and annotations, and numbers the names that a function binds itself."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for inner in ast.walk(node):
            if isinstance(inner, ast.arg):
                inner.annotation = None
                self._number(inner.arg)
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self._number(inner.id)
        node.returns = None
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def _number(self, name: str) -> None:
        self._names.setdefault(name, f"v{len(self._names)}")
