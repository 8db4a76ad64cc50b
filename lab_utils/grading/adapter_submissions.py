"""Adapters that a lab asks for beside its notebook: who handed in which, and what each is worth.

The teacher's table (`labs grade --adapters`) names the folder that a student hands in. It is looked for by that name
anywhere in the student's folder or zips; zips are never extracted, links never followed. `adapter_judge` judges it, in
a process of its own with limits. A judgment is kept under the digest of the bytes it is about, so that a batch goes
on where it was stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from lab_utils import models
from lab_utils.files import write_atomic
from lab_utils.grading import adapter_files, adapter_judge, tasks, workers
from lab_utils.grading.adapter_files import CONFIG, LIMITS, WEIGHTS, AdapterFault
from lab_utils.grading.notebook_file import Unreadable
from lab_utils.grading.policy import AdapterRequest, Key
from lab_utils.grading.reading import Refused
from lab_utils.grading.row import (
    FAILED,
    GRADED,
    MISSING,
    ExerciseResult,
    Judgment,
    judgment_from_json,
)
from lab_utils.grading.submissions import FOLDER, Entry, Student, Submissions
from lab_utils.grading.text import clean

KEPT = ".adapters"
"""Folder of the judgments, in the folder of the results."""
CPU_SECONDS, MEMORY_MIB = 600, 4096
"""What judging one adapter may take; it takes 4 s and 300 MiB."""
SHIPPED = "这就是课程附带的适配器（每一层的 B·A 相同），不是交作业的人训练的，不得分；如果确实是自己训练出来的，请联系老师"


@dataclass(frozen=True)
class AdapterFolder:
    """Where an adapter was handed in; `members`: its files, when it lies in a zip."""

    entry: Entry
    members: Mapping[str, Entry] = field(default_factory=dict)

    def read(self) -> dict[str, bytes]:
        """The bytes of the two files. Raises AdapterFault."""
        if self.entry.inner is None:
            root = self.entry.root
            return adapter_files.read_files(root.joinpath(*self.entry.parts), root)
        files = {}
        for name, limit in LIMITS.items():
            if name not in self.members:
                raise AdapterFault(f"压缩包里没有文件 {name}", "权重要存成 safetensors")
            try:
                files[name] = self.members[name].read(limit)
            except (Refused, Unreadable) as problem:
                raise AdapterFault(problem.what, problem.remedy) from None
        return files

    def digest(self) -> tuple[dict[str, bytes] | AdapterFault, str]:
        """The two files, or why they can't be had; and a digest of that."""
        try:
            files = self.read()
        except AdapterFault as error:
            return error, hashlib.sha256(str(error).encode()).hexdigest()
        parts = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())]
        return files, hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class JudgingJob:
    """One adapter that has to be judged: the digest of its bytes as they were found, and where the judgment goes."""

    folder: AdapterFolder
    request: AdapterRequest
    digest: str
    kept: Path

    def run(self) -> Judgment:
        """The judgment. Raises RuntimeError when the files aren't those that were found."""
        _limit()
        import torch

        torch.set_num_threads(1)  # the same figures whatever the cores, and the processes fill them
        files, digest = self.folder.digest()
        if digest != self.digest:
            raise RuntimeError("文件在评的时候变了 (files changed)")
        if isinstance(files, AdapterFault):
            return adapter_judge.refusal(files)
        return adapter_judge.judge_files(files, self.request.demand)


@dataclass
class AdapterSubmission:
    """What was asked of a student, and what is known: nothing handed in, or a judgment, or one to come."""

    key: Key
    request: AdapterRequest
    notes: list[str] = field(default_factory=list)
    job: JudgingJob | None = None
    judgment: Judgment | None = None


# ---------------------------------------------------------------- finding


def find(handed_in: Submissions, out: Path, requests: Sequence[AdapterRequest]) -> list[AdapterSubmission]:
    """Every student's adapters, one for each that is asked for."""
    course_version = version() if requests else ""
    return [
        _find_one(student, request, out, course_version)
        for student in handed_in.students
        for request in requests
    ]


def _find_one(student: Student, request: AdapterRequest, out: Path, course_version: str) -> AdapterSubmission:
    submission = AdapterSubmission((student.name, request.lab), request)
    folders = sorted(
        _folders(student, request.folder),
        key=lambda folder: (folder.entry.shown.count("/"), folder.entry.shown),
    )
    refused = [problem for problem in student.problems if problem.status != MISSING and not problem.lab]
    if folders:
        submission.job = _job(folders[0], request, out, course_version)
        submission.judgment = _known(submission.job.kept)
    elif refused:
        submission.judgment = Judgment("refused", refused[0].reason)
    if len(folders) > 1:
        submission.notes.append(
            f"有 {len(folders)} 个叫 {request.folder} 的文件夹，取了 {folders[0].entry.shown}"
        )
    return submission


def _folders(student: Student, name: str) -> Iterator[AdapterFolder]:
    """The folders of this name on disk, where a file or link of it gets its reason; and in zips, or a zip of this
    name itself when it holds the files."""
    members: dict[tuple[tuple[str, ...], PurePosixPath], dict[str, Entry]] = {}
    for entry in student.entries:
        if entry.inner is not None and entry.kind != FOLDER:
            members.setdefault((entry.parts, entry.inner.parent), {})[entry.name] = entry
    for entry in student.entries:
        if entry.inner is None:
            if entry.name == name and len(entry.parts) > 1:
                yield AdapterFolder(entry)
        elif entry.kind == FOLDER:
            files = members.get((entry.parts, entry.inner), {})
            if files and (entry.name == name or (Path(entry.parts[-1]).stem == name and CONFIG in files)):
                yield AdapterFolder(entry, files)


# ---------------------------------------------------------------- judging


def judge(submissions: Iterable[AdapterSubmission], count: int) -> Iterator[AdapterSubmission]:
    """Judge what isn't judged yet, so many at a time; each when it is done. What the grader itself fails at gets the
    status `failed` and isn't kept."""
    waiting: dict[Path, list[AdapterSubmission]] = {}
    jobs: dict[Path, JudgingJob] = {}
    for submission in submissions:
        if submission.job and submission.judgment is None:
            jobs[submission.job.kept] = submission.job
            waiting.setdefault(submission.job.kept, []).append(submission)
        else:
            yield submission
    if not jobs:
        return
    for job, judgment in workers.processes(list(jobs.values()), count, [adapter_judge.__name__]):
        if isinstance(judgment, Judgment):
            write_atomic(job.kept, json.dumps(asdict(judgment), ensure_ascii=False) + "\n")
        else:
            judgment = Judgment(FAILED, f"评分程序自己出了错，请重新运行 ({judgment})")
        for submission in waiting[job.kept]:
            submission.judgment = judgment
            yield submission


def results(submissions: Iterable[AdapterSubmission]) -> dict[Key, list[ExerciseResult]]:
    """For each student and lab what to add to a row's exercises."""
    made: dict[Key, list[ExerciseResult]] = {}
    for submission in submissions:
        made.setdefault(submission.key, []).append(_result(submission))
    return made


def _result(submission: AdapterSubmission) -> ExerciseResult:
    request, judgment = submission.request, submission.judgment
    if judgment is None:
        reason = f"没有交文件夹 {request.folder}：把它放在笔记本旁边，里面要有 {CONFIG} 和 {WEIGHTS}"
        judgment = Judgment(MISSING, reason)
    share, stage, reason = judgment.share, judgment.status, judgment.reason
    if judgment.shipped:
        share, stage, reason = 0.0, "shipped", SHIPPED
    elif stage == GRADED:
        stage = "ok" if share == 1.0 else "adapter"
    message = clean("；".join([reason.rstrip("。"), *submission.notes]))
    points = round(request.points * share, 2)
    return ExerciseResult(request.folder, request.points, points, stage, message, adapter=judgment)


# ---------------------------------------------------------------- what is kept


def version() -> str:
    """A digest of everything on which a judgment depends besides the adapter: this code, the exam, the base."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for source in sorted(tasks.imported([Path(adapter_judge.__file__)], package)):
        digest.update(source.read_bytes())
    for file in sorted(Path(models.path(models.SHIPPED)).iterdir()):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def _job(folder: AdapterFolder, request: AdapterRequest, out: Path, course_version: str) -> JudgingJob:
    _, digest = folder.digest()
    key = hashlib.sha256(f"{course_version} {request.demand} {digest}".encode()).hexdigest()
    return JudgingJob(folder, request, digest, out / KEPT / key)


def _known(path: Path) -> Judgment | None:
    try:
        return judgment_from_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return None


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
