"""The simulations against brute force, against the definitions in the papers, and against a real cache."""

import heapq

import numpy as np
import pytest

from lab_utils.serving.scheduling import (
    Job,
    blocks_needed,
    contiguous_memory,
    continuous_batching,
    paged_memory,
    random_jobs,
    static_batching,
)

SEEDS = range(25)
PLANS = [static_batching, continuous_batching]


def some_jobs(seed: int) -> list[Job]:
    return random_jobs(count=30, every=1.7, mean_length=9, seed=seed)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_is_written_once_in_a_slot_of_its_own(plan, seed):
    jobs, slots = some_jobs(seed), 4
    schedule = plan(jobs, slots)
    assert sorted(span.job for span in schedule.spans) == list(range(30))
    holder = {}
    for span in schedule.spans:
        job = jobs[span.job]
        assert job.arrival <= span.start
        assert span.end - span.start == job.length
        assert span.end <= span.released
        for step in range(span.start, span.released):
            assert holder.setdefault((span.slot, step), span.job) == span.job
    assert {slot for slot, _ in holder} <= set(range(slots))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("seed", SEEDS)
def test_jobs_start_in_the_order_of_arrival(plan, seed):
    jobs = some_jobs(seed)
    starts = [span.start for span in sorted(plan(jobs, 3).spans, key=lambda s: (jobs[s.job].arrival, s.job))]
    assert starts == sorted(starts)


@pytest.mark.parametrize("seed", SEEDS)
def test_continuous_batching_step_by_step(seed):
    """The same by walking through time, as a server does: after each step, free slots go to those who wait."""
    jobs, slots = some_jobs(seed), 4
    left, waiting, started, now = {}, list(range(len(jobs))), {}, 0
    while waiting or left:
        while waiting and len(left) < slots and jobs[waiting[0]].arrival <= now:
            job = waiting.pop(0)
            left[job], started[job] = jobs[job].length, now
        left = {job: steps - 1 for job, steps in left.items() if steps > 1}
        now += 1
    schedule = continuous_batching(jobs, slots)
    assert {span.job: span.start for span in schedule.spans} == started
    assert schedule.makespan == now


@pytest.mark.parametrize("seed", SEEDS)
def test_static_batching_step_by_step(seed):
    jobs, slots = some_jobs(seed), 4
    waiting, started, now = list(range(len(jobs))), {}, 0
    while waiting:
        batch = [job for job in waiting[:slots] if jobs[job].arrival <= now]
        started |= dict.fromkeys(batch, now)
        waiting = [job for job in waiting if job not in batch]
        now += max((jobs[job].length for job in batch), default=1)
    schedule = static_batching(jobs, slots)
    assert {span.job: span.start for span in schedule.spans} == started
    assert schedule.makespan == now


@pytest.mark.parametrize("seed", SEEDS)
def test_continuous_batching_is_never_slower(seed):
    jobs = some_jobs(seed)
    static, continuous = static_batching(jobs, 4), continuous_batching(jobs, 4)
    assert continuous.makespan <= static.makespan
    assert continuous.mean_latency < static.mean_latency


def test_with_everybody_there_at_the_start_it_is_list_scheduling():
    lengths = [5, 2, 9, 3, 1, 8, 4]
    free = [0, 0]
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    jobs = [Job(0, length) for length in lengths]
    assert continuous_batching(jobs, 2).makespan == max(free) == 17
    assert static_batching(jobs, 2).makespan == 5 + 9 + 8 + 4


def test_the_figures_of_a_schedule_by_hand():
    """Two slots; the second job is short and waits in its slot for the first, the third for both."""
    jobs = [Job(0, 6), Job(0, 2), Job(1, 2)]
    static, continuous = static_batching(jobs, 2), continuous_batching(jobs, 2)
    assert (static.makespan, continuous.makespan) == (8, 6)
    assert (static.utilization, continuous.utilization) == (10 / 16, 10 / 12)
    assert (static.mean_latency, continuous.mean_latency) == ((6 + 6 + 7) / 3, (6 + 2 + 3) / 3)


def test_a_pause_between_jobs_is_waited_for():
    jobs = [Job(0, 2), Job(100, 3)]
    assert [plan(jobs, 2).makespan for plan in PLANS] == [103, 103]


def test_jobs_are_the_same_for_the_same_seed():
    assert some_jobs(3) == some_jobs(3) != some_jobs(4)
    jobs = random_jobs(count=4000, every=2.0, mean_length=10, seed=0)
    assert jobs[0].arrival == 0
    assert np.mean([job.length for job in jobs]) == pytest.approx(10.5, rel=0.05)
    assert jobs[-1].arrival == pytest.approx(8000, rel=0.05)
    assert min(job.length for job in jobs) == 1


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("jobs", "slots"), [([], 2), ([Job(0, 1)], 0), ([Job(0, 1), Job(0, 0)], 2), ([Job(-1, 3)], 2)]
)
def test_what_cannot_be_scheduled_is_refused(plan, jobs, slots):
    with pytest.raises(ValueError, match="请求"):
        plan(jobs, slots)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (160, 10)])
def test_blocks(tokens, blocks):
    assert blocks_needed(tokens, 16) == blocks


def test_contiguous_memory_by_hand():
    memory = contiguous_memory([3, 1, 4, 2], places=14, max_length=4)
    assert memory.owner.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [-1] * 2
    assert np.flatnonzero(memory.filled).tolist() == [0, 1, 2, 4, 8, 9, 10, 11]
    assert memory.admitted == 3
    assert memory.waste == pytest.approx(4 / 12)


def test_paged_memory_by_hand():
    """Blocks of two: first everybody's first block, then everybody's second, and so on."""
    memory = paged_memory([3, 1, 5, 9], places=13, block_size=2)
    assert memory.owner.tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 2, 2, 2, 2, -1]
    assert np.flatnonzero(~memory.filled).tolist() == [3, 7, 11, 12]
    assert memory.admitted == 3
    assert memory.waste == pytest.approx(3 / 12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("block_size", [1, 16, 64])
def test_paged_memory_holds_every_token_it_lets_in(seed, block_size):
    lengths = np.random.default_rng(seed).integers(1, 120, 40).tolist()
    memory = paged_memory(lengths, places=2048, block_size=block_size)
    for job in range(memory.admitted):
        assert int((memory.filled & (memory.owner == job)).sum()) == lengths[job]
        assert int((memory.owner == job).sum()) == block_size * blocks_needed(lengths[job], block_size)
    assert not memory.filled[memory.owner < 0].any()
    free = int((memory.owner < 0).sum())
    assert memory.admitted == 40 or blocks_needed(lengths[memory.admitted], block_size) > free // block_size
    assert (memory.waste == 0) == (block_size == 1)


def test_nothing_fits():
    for memory in (contiguous_memory([5], 4, 8), paged_memory([5], 4, 16)):
        assert (memory.admitted, memory.waste) == (0, 0.0)


@pytest.mark.parametrize("lengths", [[0], [3, -1], [9]])
def test_a_length_that_cannot_be_is_refused(lengths):
    with pytest.raises(ValueError, match="长度"):
        contiguous_memory(lengths, 64, max_length=8)
    if lengths != [9]:
        with pytest.raises(ValueError, match="长度"):
            paged_memory(lengths, 64)
