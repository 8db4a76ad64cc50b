"""Why vLLM is fast, small enough to draw: batching on a time line, and the KV cache on a map.

Continuous batching: Yu et al., "Orca" (OSDI 2022), section 3.1, iteration-level scheduling. Paged KV
memory: Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023), sections 3
and 4. Time is counted in steps: one step writes one token for every request in the batch, however many they
are; reading the weights is what a step costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab_utils.errors import InvalidValue


@dataclass(frozen=True)
class Job:
    """A request that comes at step `arrival` and will write `length` tokens."""

    arrival: int
    length: int


@dataclass(frozen=True)
class Span:
    """Request number `job` in slot `slot` from step `start`: it writes up to `end`, and the slot is free, and
    the answer handed over, at `released`."""

    job: int
    slot: int
    start: int
    end: int
    released: int


@dataclass(frozen=True)
class Schedule:
    """What a scheduler did with `jobs` on `slots` slots; a span for each job."""

    jobs: tuple[Job, ...]
    slots: int
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> int:
        """Steps until everything is answered."""
        return max(span.released for span in self.spans)

    @property
    def utilization(self) -> float:
        """Share of slots × makespan in which a token was written."""
        return sum(span.end - span.start for span in self.spans) / (self.slots * self.makespan)

    @property
    def mean_latency(self) -> float:
        """Mean steps from a request's arrival to its answer."""
        return float(np.mean([span.released - self.jobs[span.job].arrival for span in self.spans]))


def random_jobs(count: int, every: float, mean_length: float, seed: int = 0) -> list[Job]:
    """`count` jobs, one `every` so many steps on average (Poisson), of very different lengths (exponential)."""
    rng = np.random.default_rng(seed)
    arrivals = np.floor(np.cumsum(rng.exponential(every, count)) - every).clip(min=0).astype(int)
    lengths = np.ceil(rng.exponential(mean_length, count)).clip(min=1).astype(int)
    return [Job(int(a), int(n)) for a, n in zip(arrivals, lengths, strict=True)]


def static_batching(jobs: Sequence[Job], slots: int) -> Schedule:
    """Take up to `slots` of those who wait, write until the longest is done, then look at the queue again."""
    order = _queue(jobs, slots)
    spans, now = [], 0
    while order:
        now = max(now, jobs[order[0]].arrival)
        batch = [job for job in order[:slots] if jobs[job].arrival <= now]
        over = now + max(jobs[job].length for job in batch)
        spans += [Span(job, slot, now, now + jobs[job].length, over) for slot, job in enumerate(batch)]
        order, now = order[len(batch) :], over
    return Schedule(tuple(jobs), slots, tuple(spans))


def continuous_batching(jobs: Sequence[Job], slots: int) -> Schedule:
    """Look at the queue after every step: a slot that is free goes to the next who waits."""
    free_at, spans = [0] * slots, []
    for job in _queue(jobs, slots):
        start = max(min(free_at), jobs[job].arrival)
        slot = next(s for s in range(slots) if free_at[s] <= start)
        free_at[slot] = start + jobs[job].length
        spans.append(Span(job, slot, start, free_at[slot], free_at[slot]))
    return Schedule(tuple(jobs), slots, tuple(spans))


def _queue(jobs: Sequence[Job], slots: int) -> list[int]:
    """Numbers of the jobs in the order of arrival. Raises InvalidValue for what can't be scheduled."""
    if slots < 1 or not jobs:
        raise InvalidValue(f"收到 {len(jobs)} 个请求、{slots} 个槽位 (slot)", "至少要一个请求和一个槽位")
    bad = next((i for i, job in enumerate(jobs) if job.arrival < 0 or job.length < 1), None)
    if bad is not None:
        raise InvalidValue(f"第 {bad} 个请求 {jobs[bad]} 不对", "到达时刻不能为负，长度至少为 1")
    return sorted(range(len(jobs)), key=lambda job: jobs[job].arrival)


def blocks_needed(tokens: int, block_size: int) -> int:
    """Blocks of `block_size` places that `tokens` tokens take: the last one may be half empty."""
    return -(-tokens // block_size)


@dataclass(frozen=True)
class MemoryMap:
    """Who holds each place of the KV memory; a place holds one token.

    owner: (places,) int64, number of the request that reserved the place, -1 for a free one.
    filled: (places,) bool, whether a token lies there.
    """

    owner: np.ndarray
    filled: np.ndarray

    @property
    def admitted(self) -> int:
        """How many requests fitted in."""
        return len(set(self.owner[self.owner >= 0].tolist()))

    @property
    def waste(self) -> float:
        """Share of the reserved places that hold no token; 0 when nothing is reserved."""
        reserved = int((self.owner >= 0).sum())
        return 1 - int(self.filled.sum()) / reserved if reserved else 0.0


def contiguous_memory(lengths: Sequence[int], places: int, max_length: int) -> MemoryMap:
    """Each request gets `max_length` places in one piece, since nobody knows how long it will be.

    `lengths`: tokens of each request; they are let in, in order, until the next doesn't fit.
    """
    _check_lengths(lengths, max_length)
    owner, filled = np.full(places, -1), np.zeros(places, bool)
    for job, length in enumerate(lengths[: places // max_length]):
        start = job * max_length
        owner[start : start + max_length] = job
        filled[start : start + length] = True
    return MemoryMap(owner, filled)


def paged_memory(lengths: Sequence[int], places: int, block_size: int = 16) -> MemoryMap:
    """Each request gets a block of `block_size` places whenever its last one is full.

    They write in turns, so the blocks of one request lie apart: its block table knows where. As many are
    let in, in order, as have room to finish.
    """
    _check_lengths(lengths, None)
    need = np.array([blocks_needed(length, block_size) for length in lengths])
    admitted = int((np.cumsum(need) <= places // block_size).sum())
    owner, filled = np.full(places, -1), np.zeros(places, bool)
    start = 0
    for turn in range(int(need[:admitted].max(initial=0))):
        for job in np.flatnonzero(need[:admitted] > turn).tolist():
            owner[start : start + block_size] = job
            filled[start : start + min(block_size, lengths[job] - turn * block_size)] = True
            start += block_size
    return MemoryMap(owner, filled)


def _check_lengths(lengths: Sequence[int], max_length: int | None) -> None:
    bad = next((n for n in lengths if n < 1 or (max_length and n > max_length)), None)
    if bad is not None:
        raise InvalidValue(f"长度 (length) {bad} 不对", f"要在 1 和 {max_length or '内存大小'} 之间")
