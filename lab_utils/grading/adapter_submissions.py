"""Adapters that a lab asks for beside its notebook: who handed in which, and what each is worth.

The teacher's table (`labs grade --artefacts`) names the folder that a student hands in. It is looked for by that name
anywhere in the student's folder or zips; zips are never extracted, links never followed. `artefacts` judges it, in a
process of its own with limits. A judgement is kept under the digest of the bytes it is about, so that a batch goes on
where it was stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lab_utils import models
from lab_utils.files import write_atomic
from lab_utils.grading import adapter_judge, notebook_file, scoring, submissions, tasks, workers
from lab_utils.grading.adapter_judge import CONFIG, LIMITS, WEIGHTS, ArtefactError
from lab_utils.grading.policy import Asked, Key

KEPT = ".adapters"
"""Folder of the judgements, in the folder of the results."""
CPU_SECONDS, MEMORY_MIB = 600, 4096
"""What judging one adapter may take; it takes 4 s and 300 MiB."""
SHIPPED = "这就是课程附带的适配器（sha256 相同），不是交作业的人训练的，不得分；如果确实是自己训练出来的，请联系老师"


@dataclass(frozen=True)
class Place:
    """Where an adapter was found: the folder `path`, or the folder `inner` of the zip `path`."""

    path: Path
    within: Path
    inner: PurePosixPath | None = None

    @property
    def shown(self) -> str:
        """Its path as the student knows it."""
        return "/".join(
            [*self.path.relative_to(self.within).parts[1:], *(self.inner or PurePosixPath()).parts]
        )

    def read(self) -> dict[str, bytes]:
        """The bytes of the two files. Raises ArtefactError."""
        if self.inner is None:
            return adapter_judge.read_files(self.path, self.within)
        try:
            members = dict(submissions.zip_members(self.path))
            return {name: self._member(members, name) for name in LIMITS}
        except (submissions.Refused, notebook_file.Unreadable) as problem:
            raise ArtefactError(str(problem)) from None

    def _member(self, members: Mapping[PurePosixPath, Any], name: str) -> bytes:
        if self.inner / name not in members:
            raise ArtefactError(f"压缩包里没有文件 {name}：权重要存成 safetensors")
        return submissions.member_bytes(self.path, members[self.inner / name], LIMITS[name])


@dataclass(frozen=True)
class Judging:
    """One adapter that has to be judged: its bytes as they were found, and where the judgement is kept."""

    place: Place
    asked: Asked
    digest: str
    kept: Path

    def run(self) -> dict[str, Any]:
        """The judgement. Raises RuntimeError when the files aren't those that were found."""
        _limit()
        import torch

        torch.set_num_threads(1)  # the same figures whatever the cores, and the processes fill them
        files, digest = _read(self.place)
        if digest != self.digest:
            raise RuntimeError("文件在评的时候变了 (files changed)")
        if isinstance(files, ArtefactError):
            return adapter_judge.refusal(files)
        return adapter_judge.judge_files(files, self.asked.demand)


@dataclass
class Found:
    """What was asked of a student, and what is known: nothing handed in, or a judgement, or one to come."""

    key: Key
    asked: Asked
    notes: list[str] = field(default_factory=list)
    judging: Judging | None = None
    judgement: dict[str, Any] | None = None


# ---------------------------------------------------------------- finding


def find(folder: Path, out: Path, asked: Sequence[Asked]) -> list[Found]:
    """Every student's adapters, one for each that is asked for. Raises FileNotFoundError without `folder`."""
    folder = folder.resolve()
    course_version = version() if asked else ""
    found = []
    for name, places in submissions.places(folder).items():
        for one in asked:
            entry = Found((name, one.lab), one)
            found.append(entry)
            problems: list[str] = []
            candidates = [p for place in places for p in _look_into(place, folder, one.folder, problems)]
            candidates.sort(key=lambda place: (place.shown.count("/"), place.shown))
            if candidates:
                entry.judging = _judging(candidates[0], one, out, course_version)
                entry.judgement = _known(entry.judging.kept)
            elif problems:
                entry.judgement = {"status": "refused", "reason": problems[0], "share": 0.0}
            if len(candidates) > 1:
                entry.notes.append(
                    f"有 {len(candidates)} 个叫 {one.folder} 的文件夹，取了 {candidates[0].shown}"
                )
    return found


def _look_into(place: Path, within: Path, folder: str, problems: list[str]) -> Iterator[Place]:
    """The folders of this name in a student's folder or zip."""
    if place.is_symlink():
        problems.append(f"{place.name} 是一个链接 (symlink)，不会被打开")
    elif place.suffix.lower() == ".zip" and place.is_file():
        yield from _in_zip(place, within, folder, problems)
    elif place.is_dir():
        seen = 0
        for here, folders, files in os.walk(place, followlinks=False):
            seen += len(folders) + len(files)
            if seen > submissions.MEMBER_LIMIT:
                problems.append(f"文件太多，超过 {submissions.MEMBER_LIMIT} 个")
                return
            folders[:] = sorted(name for name in folders if not submissions.ignored(name))
            if folder in folders or folder in files:  # a file of this name gets its reason
                yield Place(Path(here, folder), within)
            for name in sorted(files):
                if name.lower().endswith(".zip") and not name.startswith("."):
                    yield from _in_zip(Path(here, name), within, folder, problems)


def _in_zip(path: Path, within: Path, folder: str, problems: list[str]) -> Iterator[Place]:
    """The folders of this name in a zip; the zip itself when it bears the name and holds the files."""
    try:
        files = [name for name, _ in submissions.zip_members(path)]
    except (submissions.Refused, notebook_file.Unreadable) as problem:
        problems.append(str(problem))
        return
    for inner in sorted({name.parent for name in files}):
        named = inner.name == folder or (path.stem == folder and inner / CONFIG in files)
        if named and not any(submissions.ignored(part) for part in inner.parts):
            yield Place(path, within, inner)


# ---------------------------------------------------------------- judging


def judge(found: Iterable[Found], count: int) -> Iterator[Found]:
    """Judge what isn't judged yet, so many at a time; each entry when it is done. What the grader itself fails at
    gets the status `failed` and isn't kept."""
    waiting: dict[Path, list[Found]] = {}
    for entry in found:
        if entry.judging and entry.judgement is None:
            waiting.setdefault(entry.judging.kept, []).append(entry)
        else:
            yield entry
    jobs = [entries[0].judging for entries in waiting.values()]
    if not jobs:
        return
    for job, judgement in workers.processes(jobs, count, [adapter_judge.__name__]):
        if isinstance(judgement, dict):
            write_atomic(job.kept, json.dumps(judgement, ensure_ascii=False) + "\n")
        else:
            judgement = {
                "status": "failed",
                "reason": f"评分程序自己出了错，请重新运行 ({judgement})",
                "share": 0.0,
            }
        for entry in waiting[job.kept]:
            entry.judgement = judgement
            yield entry


def entries(found: Iterable[Found]) -> dict[Key, list[dict[str, Any]]]:
    """For each student and lab the entries to add to a row's exercises."""
    made: dict[Key, list[dict[str, Any]]] = {}
    for one in found:
        made.setdefault(one.key, []).append(_entry(one))
    return made


def _entry(found: Found) -> dict[str, Any]:
    """An entry as `scoring` makes them, with the key `artefact`: what was judged, without the share."""
    asked, judgement = found.asked, found.judgement
    if judgement is None:
        said = f"没有交文件夹 {asked.folder}：把它放在笔记本旁边，里面要有 {CONFIG} 和 {WEIGHTS}"
        judgement = {"status": "missing", "reason": said, "share": 0.0}
    share, stage, reason = judgement["share"], judgement["status"], judgement["reason"]
    if judgement.get("shipped"):
        share, stage, reason = 0.0, "shipped", SHIPPED
    elif stage == "graded":
        stage = "ok" if share == 1.0 else "adapter"
    told = {key: value for key, value in judgement.items() if key not in ("reason", "share")}
    return {
        "name": asked.folder,
        "points": asked.points,
        "score": round(asked.points * share, 2),
        "stage": stage,
        "message": scoring.clean("；".join([reason, *found.notes])),
        "hint": "",
        "mistake": "",
        "passed": 0,
        "cases": 0,
        "hidden_passed": 0,
        "hidden_cases": 0,
        "artefact": told,
    }


def copies(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...], str]]:
    """`(lab, students, how)` for adapters of several students, or of one and the course, that are the same.

    How: 字节相同 (the same file), or 算出来相同 (the same update of the base, in other numbers).
    """
    handed: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for row in rows:
        for entry in row["exercises"]:
            judged = entry.get("artefact") or {}
            if judged.get("sha256"):
                handed.setdefault((row["lab"], entry["name"]), []).append((row["student"], judged))
    found = []
    for (lab, _), own in sorted(handed.items()):
        for group in _groups(own):
            same = len({judged["sha256"] for _, judged in group}) == 1
            found.append((lab, tuple(name for name, _ in group), "字节相同" if same else "算出来相同"))
    return found


def _groups(own: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """Those that compute the same as the first of them; the course's own adapter is one of them."""
    shipped = {"sha256": adapter_judge.shipped_digest(), "projection": adapter_judge.shipped_projection()}
    left = [("课程附带的适配器", shipped), *own]
    while left:
        first = left[0][1]["projection"]
        group = [
            item for item in left if adapter_judge.computes_the_same(first, item[1]["projection"])
        ] or left[:1]
        left = [item for item in left if item not in group]
        if len(group) > 1:
            yield group


# ---------------------------------------------------------------- what is kept


def version() -> str:
    """A digest of everything on which a judgement depends besides the adapter: this code, the exam, the base."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for source in sorted(tasks.imported([Path(adapter_judge.__file__)], package)):
        digest.update(source.read_bytes())
    for file in sorted(Path(models.path(models.SHIPPED)).iterdir()):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def _read(place: Place) -> tuple[dict[str, bytes] | ArtefactError, str]:
    """The two files, or why they can't be had; and a digest of that."""
    try:
        files = place.read()
    except ArtefactError as error:
        return error, hashlib.sha256(str(error).encode()).hexdigest()
    parts = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())]
    return files, hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _judging(place: Place, asked: Asked, out: Path, course_version: str) -> Judging:
    _, digest = _read(place)
    key = hashlib.sha256(f"{course_version} {asked.demand} {digest}".encode()).hexdigest()
    return Judging(place, asked, digest, out / KEPT / key)


def _known(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and known.keys() >= {"status", "reason", "share"} else None


def _limit() -> None:
    """From here on this process may use so much more time and memory, and write no large file."""
    import resource  # not on Windows, where `labs report` reads this module too

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    data = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_MIB * 2**20
    for name, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_FSIZE, 2**20),
    ):
        resource.setrlimit(name, (value, resource.getrlimit(name)[1]))
