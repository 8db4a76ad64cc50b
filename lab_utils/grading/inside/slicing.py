"""Which statements of a notebook an answer needs, in the order in which the notebook runs them.

The aim: an answer that passes its check when the notebook is run from top to bottom passes here too, and no training,
download or figure of another cell is run for it. Running every statement under an alarm would be the simpler rule,
but it imports every library of the notebook in every child, and what a cell before costs counts against the answer.
So, beside the answer's own cell, a statement is taken when it may affect a name that the answer, or a statement taken
for it, reads: it binds the name, changes the object, or calls a function that does (`effects`). Going back from where
the name is read, the search ends at a statement that surely binds it anew. Statements that may bind names which can't
be seen in the text, such as `from math import *`, are always taken.

The notebook's state counts as it is at the answer's check. A name that isn't bound by then is taken from where it is
bound first afterwards, else from the notebook as it was given out, for cells that were deleted.
"""

import ast
import builtins
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from . import cells as cell_reader
from .effects import Effects, effects

KNOWN = {*dir(builtins), "display", "get_ipython", "__name__", "__file__", "In", "Out", "_"}
"""Names that need not be bound in a notebook."""
_ANYTHING = {
    "globals",
    "locals",
    "exec",
    "builtins",
    "__builtins__",
    "__main__",
    "writefile",
    "file",
    "__future__",
}
_STAR = re.compile(r"import\s*\*")
_BOUND = re.compile(
    r"\b(?:def|class|as|for|global)\s+(\w+)|\b(\w+)\b(?=\s*[^\w\s=!<>]{0,2}=(?!=)|[\])\s]*=(?!=)|\s*(?:,|:|in\b))"
)
_LISTED = re.compile(r"\b(?:import|del)\b\s*(\([^()]*\)|.*)")

Place = tuple[int, int]
"""Cell and number of the statement in it; cells of the notebook as given out count as negative numbers."""


@dataclass(frozen=True)
class Step:
    """One statement to run. `needed`: the answer needs it; else it only stands in the answer's cell, and is run with
    what is there by then."""

    cell: int
    statement: ast.stmt
    needed: bool = True


@dataclass(frozen=True)
class Plan:
    """The statements in the order to run. `unbound`: names that are read and bound nowhere; `error`: the answer's own
    cell can't be read."""

    steps: tuple[Step, ...] = ()
    unbound: tuple[str, ...] = ()
    error: SyntaxError | None = None


def plan(
    sources: Sequence[str],
    target: int,
    function: str,
    given: Sequence[str] = (),
    whole: bool = False,
    wide: bool = False,
) -> Plan:
    """What to run before `function`, the answer in cell `target` of the notebook, can be called.

    `given`: the code cells of the notebook as it was given out. `whole`: the state at the end of the notebook counts,
    not that at the check. `wide`: that at the last check counts, and whatever stands in a cell that wasn't given out
    is needed.
    """
    answer = cell_reader.parse(sources[target])
    if answer.error:
        return Plan(error=answer.error)
    last = len(sources) - 1 if whole else _check_cell(sources, target, function, wide)
    search = _Search(sources, given, target, last, function)
    if wide:
        search.take_own_cells()
    return search.plan()


def _check_cell(sources: Sequence[str], target: int, function: str, latest: bool) -> int:
    """The first cell, or the latest, from the target on in which the function, alone, is given to something:
    `check.NAME(function)`."""
    numbers = range(target, len(sources))
    for number in reversed(numbers) if latest else numbers:
        if function in _words(sources[number]):
            for statement in cell_reader.parse(sources[number]).statements:
                match getattr(statement, "value", None):
                    case ast.Call(ast.Attribute(), [ast.Name(name)], []) if name == function:
                        return number
    return target


@cache
def _words(source: str) -> frozenset[str]:
    """Every word of a text, identifiers in the form in which Python compares them."""
    return frozenset(
        re.findall(r"\w+", source if source.isascii() else unicodedata.normalize("NFKC", source))
    )


@cache
def _perhaps_bound(source: str) -> frozenset[str]:
    """Words that a statement of this text may bind; for builtin names, which nearly every cell reads."""
    listed = (word for text in _LISTED.findall(source) for word in re.findall(r"\w+", text))
    return frozenset((*(word for pair in _BOUND.findall(source) for word in pair), *listed))


@cache
def _effects(source: str) -> tuple[tuple[ast.stmt, Effects], ...]:
    return tuple((statement, effects(statement)) for statement in cell_reader.parse(source).statements)


class _Search:
    """The search for the statements that one answer needs."""

    def __init__(self, sources: Sequence[str], given: Sequence[str], target: int, last: int, function: str):
        self._sources, self._given, self._target, self._last = sources, given, target, last
        self._function = function
        self._end: Place = (last, sys.maxsize)
        self._taken: set[Place] = set()
        self._waiting: list[tuple[str, Place]] = []
        self._done: set[tuple[str, Place]] = set()
        self._touching: dict[str, list[Place]] = {}
        self._unbound: set[str] = set()
        self._unseen = False

    def take_own_cells(self) -> None:
        """Take every statement of the cells that the student wrote, up to the check: the text doesn't show all that
        changes an object, such as a method kept under a name, or a list held in another object."""
        given = set(self._given)
        for number in range(self._last + 1):
            if self._sources[number] not in given:
                for index in range(len(_effects(self._sources[number]))):
                    self._take((number, index), self._end)

    def plan(self) -> Plan:
        for number in range(self._last + 1):
            source = self._sources[number]
            if _words(source) & _ANYTHING or _STAR.search(source):
                for index, (_, effect) in enumerate(_effects(source)):
                    if effect.anything:
                        self._unseen = True
                        self._take((number, index), self._end)
        own = _effects(self._sources[self._target])
        bound = any(self._function in effect.binds for _, effect in own)
        if not bound:  # unless by means that the text doesn't show: all of the cell is needed
            for index in range(len(own)):
                self._take((self._target, index), self._end)
        self._waiting.append((self._function, self._end))
        while self._waiting:
            need = self._waiting.pop()
            if need not in self._done:
                self._done.add(need)
                self._search(*need)
        unbound = () if self._unseen else tuple(sorted(self._unbound - {self._function}))
        return Plan(tuple(self._ordered()), unbound)

    def _ordered(self) -> Iterator[Step]:
        """What was given out; the cells before the answer; what is bound only after the check; the answer; the rest."""

        def order(place: Place) -> tuple:
            cell, index = place
            group = 0 if cell < 0 else 1 if cell < self._target else 3 if cell <= self._last else 2
            return group, abs(cell), index

        own = {(self._target, index) for index in range(len(_effects(self._sources[self._target])))}
        for place in sorted(self._taken | own, key=order):
            yield Step(place[0], self._statement(place), place in self._taken)

    def _search(self, name: str, before: Place) -> None:
        """Take what affects a name between the statement that binds it anew, the last before a place, and that place."""
        places = [place for place in self._touching_places(name) if place < before]
        bound = False
        for place in reversed(places):
            effect = self._at(place)
            bound |= name in effect.binds
            self._take(place, before)
            if name in effect.surely:
                break
        if not bound and not self._found_elsewhere(name, before) and not self._touching_places(name):
            self._unbound.add(name)

    def _found_elsewhere(self, name: str, before: Place) -> bool:
        """Take what binds a name after the check, or did in the notebook as given out; whether it needs no more."""
        own = before[1] < sys.maxsize and name in self._at(before).binds  # such as the variable of a loop
        if name in KNOWN:
            return True
        after = range(self._last + 1, len(self._sources))
        later = ((number, self._sources[number]) for number in after)
        given = ((-1 - number, source) for number, source in enumerate(self._given))
        for number, source in (*later, *(() if name == self._function else given)):  # not the stub
            if name in _words(source):
                for index, (_, effect) in enumerate(_effects(source)):
                    if name in effect.binds:
                        self._take((number, index), before)
                        return True
        return own

    def _take(self, place: Place, before: Place) -> None:
        """Take a statement, and want what it reads where it stands, and what its functions read where they may be
        called: at the place for which the statement is taken, and in the end."""
        effect = self._at(place)
        self._taken.add(place)
        self._waiting += [(name, place) for name in effect.reads]
        self._waiting += [(name, when) for name in effect.later_reads for when in (before, self._end)]

    def _at(self, place: Place) -> Effects:
        return _effects(self._source(place[0]))[place[1]][1]

    def _statement(self, place: Place) -> ast.stmt:
        return _effects(self._source(place[0]))[place[1]][0]

    def _source(self, cell: int) -> str:
        return self._sources[cell] if cell >= 0 else self._given[-1 - cell]

    def _cells_with(self, names: set[str]) -> Iterator[tuple[Place, Effects]]:
        """The statements of the cells, up to the check, in which one of the names stands."""
        for number in range(self._last + 1):
            source = self._sources[number]
            here = _words(source) & names
            if here and (not here <= KNOWN or _perhaps_bound(source) & here):
                for index, (_, effect) in enumerate(_effects(source)):
                    yield (number, index), effect

    def _touching_places(self, name: str) -> list[Place]:
        """Where the name is bound, its object may be changed, or a function is used that does so; in order."""
        if name in self._touching:
            return self._touching[name]
        self._touching[name] = []  # ends the recursion of names that stand for each other
        binders = [effect for _, effect in self._cells_with({name}) if name in effect.binds]
        imported = not binders or any(name in effect.imports for effect in binders)
        is_data = not imported and not any(name in effect.defines for effect in binders)
        changers = self._changers(name, imported, is_data)
        places: set[Place] = set()
        for place, effect in self._cells_with({name, *changers}):
            if (
                name in effect.binds | effect.stores
                or (not imported and name in effect.receivers)
                or (imported and name in effect.settings)
                or (is_data and name in effect.passed)
                or effect.reads & changers
            ):
                places.add(place)
            if is_data and name in effect.aliases:
                places.add(place)
                for other in effect.binds - {name}:
                    places.update(self._touching_places(other))
        self._touching[name] = sorted(places)
        return self._touching[name]

    def _changers(self, name: str, imported: bool, is_data: bool) -> set[str]:
        """The functions and classes of the notebook that bind or change a name when they are called."""
        known: set[str] = set()
        while True:
            before = len(known)
            for _, effect in self._cells_with({name, *known}):
                changes = effect.later_binds | effect.later_stores
                changes |= frozenset() if imported else effect.later_receivers
                changes |= effect.later_passed if is_data else frozenset()
                if name in changes or effect.later_reads & known:
                    known |= effect.defines
            if len(known) == before:
                return known
