import asyncio

import numpy as np
import pytest

from cluster.retrieval.batching import Batcher, BatchLimits
from realm_core.errors import DeadlineExceededError, OverloadedError, QueryError
from realm_core.index.searcher import SearchHits


class Shards:
    """Finds, for each query, its first value as the block id; counts the batches; waits where it is told to."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def search(self, queries_BD, num_hits, deadline):
        self.batches.append((len(queries_BD), num_hits))
        await self.gate.wait()
        ids = np.repeat(queries_BD[:, :1].astype(np.int64), num_hits, axis=1)
        return SearchHits(ids.astype(np.float32), ids), len(self.batches)


def query(*values, dimension=2):
    return np.array([[value] + [0] * (dimension - 1) for value in values], dtype=np.float32)


def run(scenario, limits=None):
    async def main():
        shards = Shards()
        await asyncio.wait_for(scenario(shards, Batcher(shards.search, limits)), 20)

    asyncio.run(main())


def test_a_lone_search_starts_at_once():
    async def scenario(shards, batcher):
        hits, number = await batcher.submit(query(7), 3, 5.0)
        assert hits.rows_BK.tolist() == [[7, 7, 7]]
        assert number == 1

    run(scenario)


def test_what_comes_while_batches_are_under_way_is_one_batch_and_each_caller_gets_its_own_rows():
    async def scenario(shards, batcher):
        shards.gate.clear()
        calls = [asyncio.create_task(batcher.submit(query(i, 100 + i), 2, 5.0)) for i in range(6)]
        await asyncio.sleep(0.01)
        assert shards.batches == [(2, 2), (2, 2)]
        assert batcher.num_waiting_queries == 8
        shards.gate.set()
        for i, (hits, _) in enumerate(await asyncio.gather(*calls)):
            assert hits.rows_BK[:, 0].tolist() == [i, 100 + i]
        assert shards.batches == [(2, 2), (2, 2), (8, 2)]
        assert batcher.num_waiting_queries == 0

    run(scenario)


def test_searches_of_other_widths_or_numbers_of_hits_are_other_batches_in_order_of_arrival():
    async def scenario(shards, batcher):
        shards.gate.clear()
        first = asyncio.create_task(batcher.submit(query(0), 1, 5.0))
        await asyncio.sleep(0)
        calls = [
            batcher.submit(query(i, dimension=d), k, 5.0) for i, d, k in ((1, 2, 1), (2, 2, 3), (3, 3, 1), (4, 2, 1))
        ]
        calls = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.01)
        shards.gate.set()
        found = await asyncio.gather(first, *calls)
        assert [hits.rows_BK[0, 0] for hits, _ in found] == [0, 1, 2, 3, 4]
        assert shards.batches == [(1, 1), (2, 1), (1, 3), (1, 1)]

    run(scenario, BatchLimits(max_batches=1))


def test_a_batch_holds_no_more_queries_than_its_limit_but_a_larger_search_goes_alone():
    async def scenario(shards, batcher):
        shards.gate.clear()
        calls = [asyncio.create_task(batcher.submit(query(*range(n)), 1, 5.0)) for n in (1, 3, 3, 9)]
        await asyncio.sleep(0.01)
        shards.gate.set()
        await asyncio.gather(*calls)
        assert [size for size, _ in shards.batches] == [1, 3, 3, 9]

    run(scenario, BatchLimits(max_batches=1, max_queries=5))


def test_too_many_waiting_queries_are_refused_and_the_others_answered():
    async def scenario(shards, batcher):
        shards.gate.clear()
        calls = [asyncio.create_task(batcher.submit(query(i), 1, 5.0)) for i in range(4)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match=r"3 queries that wait already; expected at most 3"):
            await batcher.submit(query(9), 1, 5.0)
        shards.gate.set()
        assert [hits.rows_BK[0, 0] for hits, _ in await asyncio.gather(*calls)] == [0, 1, 2, 3]

    run(scenario, BatchLimits(max_batches=1, max_waiting_queries=3))


def test_a_deadline_ends_a_wait_and_its_search_is_never_made():
    async def scenario(shards, batcher):
        shards.gate.clear()
        first = asyncio.create_task(batcher.submit(query(0), 1, 5.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
            await batcher.submit(query(1), 1, 0.05)
        shards.gate.set()
        await first
        await asyncio.sleep(0.01)
        assert len(shards.batches) == 1
        assert batcher.num_waiting_queries == 0

    run(scenario, BatchLimits(max_batches=1))


def test_an_error_of_a_batch_reaches_each_of_its_callers_and_the_next_batch_runs():
    async def scenario(shards, _):
        async def fail(queries_BD, num_hits, deadline):
            if queries_BD[0, 0] == 13:
                raise QueryError(where="search", found="13", expected="another", action="Choose it.")
            return await shards.search(queries_BD, num_hits, deadline)

        batcher = Batcher(fail, BatchLimits(max_batches=1))
        with pytest.raises(QueryError, match="13"):
            await batcher.submit(query(13), 1, 5.0)
        hits, _ = await batcher.submit(query(14), 1, 5.0)
        assert hits.rows_BK.tolist() == [[14]]

    run(scenario)
