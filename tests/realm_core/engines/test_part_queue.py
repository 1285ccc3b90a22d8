import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_core.engines.part_queue import (
    MAX_DEATHS_PER_PART,
    PartJob,
    PartQueue,
    in_working_order,
    is_to_blame,
    next_jobs,
)
from realm_core.storage.block_store import PartEntry


def part(num_tokens, name="p"):
    return PartEntry(digest=f"{name}-{num_tokens}", num_rows=1, num_tokens=num_tokens, first_block_id=0)


def jobs(*sizes, num_deaths=0):
    return [PartJob(index, part(size), num_deaths) for index, size in enumerate(sizes)]


def sizes_given(waiting, held):
    return [(worker, job.part.num_tokens) for worker, job in next_jobs(waiting, held)]


def test_what_is_there_is_checked_first_and_the_rest_goes_largest_first():
    order = in_working_order([part(5), part(9), part(7), part(1)], there={3, 0})
    assert [job.index for job in order] == [0, 3, 1, 2]


def test_one_group_goes_after_the_other_and_in_a_group_the_largest_first():
    parts = [part(5), part(9), part(7), part(1), part(8)]
    order = in_working_order(parts, there={4}, groups=[0, 1, 0, 0, 1])
    assert [job.index for job in order] == [4, 2, 0, 3, 1]


def test_every_idle_worker_gets_a_part_before_any_gets_two():
    assert sizes_given(jobs(9, 8, 7, 6, 5), {"a": [], "b": []}) == [("a", 9), ("b", 8), ("a", 7), ("b", 6)]


def test_a_second_part_is_given_only_while_as_many_wait_as_there_are_workers():
    busy = jobs(1)
    assert sizes_given(jobs(9, 8), {"a": busy, "b": busy}) == [("a", 9)]
    assert sizes_given(jobs(9), {"a": busy, "b": busy}) == []
    assert sizes_given(jobs(9), {"a": busy, "b": []}) == [("b", 9)]


def test_no_worker_gets_three():
    assert sizes_given(jobs(9, 8, 7, 6), {"a": jobs(1, 2), "b": jobs(3)}) == [("b", 9)]


def test_a_part_whose_worker_died_is_embedded_alone():
    suspect, *others = [*jobs(9, num_deaths=1), *jobs(0, 8, 7, 6)[1:]]
    assert sizes_given([suspect, *others], {"a": []}) == [("a", 9)]
    assert sizes_given([suspect, *others], {"a": jobs(1), "b": jobs(2)}) == [("a", 8), ("b", 7)]
    assert sizes_given(others, {"a": [suspect]}) == []


def test_a_part_that_kills_its_workers_is_given_up_and_named_and_its_neighbours_are_not():
    queue = PartQueue(jobs(9, 8, 7))
    finished = []
    for worker in range(100):
        queue.add_worker(worker)
        given = queue.hand_out()
        killed = [at for at, job in given if job.index == 0]
        for at in killed:
            queue.remove_worker(at)
        for at, job in given:
            if at not in killed:
                finished.append(job.index)
                queue.finish(at, job)
    assert [(job.index, job.num_deaths) for job in queue.given_up] == [(0, MAX_DEATHS_PER_PART)]
    assert sorted(finished) == [1, 2]
    assert queue.num_unfinished == 0


@pytest.mark.parametrize(
    ("num_deaths", "num_deaths_of_all", "expected"),
    [(7, 7, False), (8, 8, True), (8, 16, True), (8, 17, False), (20, 50, False), (24, 500, True)],
)
def test_a_part_is_to_blame_when_most_workers_that_died_had_it(num_deaths, num_deaths_of_all, expected):
    assert is_to_blame(num_deaths, num_deaths_of_all=num_deaths_of_all) == expected


def test_parts_that_lost_their_worker_come_after_all_others():
    queue = PartQueue(jobs(9, 8, 7, 6, 5))
    queue.add_worker("a")
    assert len(queue.hand_out()) == 2
    queue.remove_worker("a")
    queue.add_worker("b")
    assert [job.part.num_tokens for _, job in queue.hand_out()] == [7, 6]


def test_after_a_stop_nothing_is_given_out_and_lost_parts_are_not_given_again():
    queue = PartQueue(jobs(9, 8, 7, 6))
    queue.add_worker("a")
    assert len(queue.hand_out()) == 2
    queue.stop()
    assert (queue.num_unfinished, queue.hand_out()) == (2, [])
    queue.remove_worker("a")
    assert queue.num_unfinished == 0


class Simulation:
    """Workers that take, finish, die and join in an order drawn by chance; what they are given is recorded."""

    def __init__(self, sizes, seed):
        self.rng = random.Random(seed)
        self.queue = PartQueue(in_working_order([part(size, str(i)) for i, size in enumerate(sizes)], there=set()))
        self.sizes = sizes
        self.held = {}
        self.finished = []
        self.fresh = []
        self.num_deaths = 0

    def run(self):
        self._join()
        while self.queue.num_unfinished:
            self._take()
            event = self.rng.random()
            if event < 0.1 and len(self.held) < 6:
                self._join()
            elif event < 0.2 and self.num_deaths < 6:
                self._die()
            else:
                self._finish()
        return self

    def _join(self):
        worker = f"worker {len(self.held)} {self.rng.random()}"
        self.held[worker] = []
        self.queue.add_worker(worker)

    def _take(self):
        waiting_before = self.queue.num_unfinished - self.queue.num_held
        given = self.queue.hand_out()
        num_left = waiting_before - len(given)
        for worker, job in given:
            is_second = bool(self.held[worker])
            assert not is_second or num_left >= len(self.held) - 1
            self.held[worker].append(job)
            if not job.num_deaths:
                self.fresh.append(job.part.num_tokens)
        assert all(len(parts) <= 2 for parts in self.held.values())
        if any(not parts for parts in self.held.values()):
            assert num_left == 0, "a worker has nothing to do while a part waits"

    def _die(self):
        worker = self.rng.choice(list(self.held))
        self.num_deaths += 1
        del self.held[worker]
        self.queue.remove_worker(worker)
        if not self.held:
            self._join()

    def _finish(self):
        busy = [worker for worker, parts in self.held.items() if parts]
        worker = self.rng.choice(busy)
        job = self.held[worker].pop(0)
        self.queue.finish(worker, job)
        self.finished.append(job.index)


@given(sizes=st.lists(st.integers(1, 50), max_size=40), seed=st.integers(0, 10_000))
def test_every_part_is_finished_once_largest_first_and_no_worker_is_idle_while_one_waits(sizes, seed):
    simulation = Simulation(sizes, seed).run()
    assert sorted(simulation.finished) == list(range(len(sizes)))
    assert simulation.fresh == sorted(sizes, reverse=True)
    assert not simulation.queue.given_up


def test_a_finished_part_is_not_taken_twice():
    queue = PartQueue(jobs(9))
    queue.add_worker("a")
    [(worker, job)] = queue.hand_out()
    queue.finish(worker, job)
    with pytest.raises(KeyError):
        queue.finish(worker, job)
