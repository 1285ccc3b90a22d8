from types import SimpleNamespace

import numpy as np
import pytest

from realm_core.errors import TrainingError
from realm_core.retrieval.snapshot_search import SearchResult
from realm_core.training.example_generator import DataOrder, ExampleGenerator
from realm_core.training.featurization import FeaturizerConfig, SpecialTokens

SPECIAL = SpecialTokens(cls_id=1, sep_id=2, mask_id=3, pad_id=0)


class Records:
    """Blocks of two sentences of four tokens; every third block has no salient span."""

    def __len__(self):
        return 30

    def take(self, block_ids, columns=None):
        return [self.row(block_id) for block_id in block_ids]

    def row(self, block_id):
        spans = [] if block_id % 3 == 0 else [(1, 3), (4, 5)]
        return {
            "body_token_ids": list(range(100 + 8 * block_id, 108 + 8 * block_id)),
            "sentence_starts": [0, 4],
            "salient_span_starts": [start for start, _ in spans],
            "salient_span_stops": [stop for _, stop in spans],
        }

    def uids(self, block_ids_K):
        return np.array([b"%020d" % block_id for block_id in block_ids_K])

    def token_ids(self, block_id):
        return [50 + block_id], self.row(block_id)["body_token_ids"]


class Searcher:
    """Finds the block that a query's tokens come from, then the ones after it; can change its snapshot."""

    def __init__(self, snapshots=("s0",)):
        self.snapshots = list(snapshots)

    def search_token_ids(self, token_ids, num_hits, *, deadline_seconds=30.0):
        snapshot = self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]
        own = [(max(ids) - 100) // 8 for ids in token_ids]
        hits = np.array([[(block + i) % 30 for i in range(num_hits)] for block in own])
        return SearchResult(np.zeros(hits.shape), hits, snapshot, int(snapshot[1:]))


def generator(records=None, searcher=None, masking="salient-span", has_null_document=True, **order):
    order = {"num_blocks": 30, "seed": 5, "rank": 0, "num_ranks": 1, **order}
    return ExampleGenerator(
        records=records or Records(),
        searcher=searcher or Searcher(),
        order=DataOrder(**order),
        batch_size=3,
        featurizer=FeaturizerConfig(
            query_length_tokens=16, block_length_tokens=32, num_candidates=4, has_null_document=has_null_document
        ),
        special=SPECIAL,
        masking=masking,
    )


def test_the_null_document_is_first_and_the_trivial_candidate_is_dropped():
    batch = generator().batch_at(0)
    for ids_N, targets_M, is_masked_M in zip(
        batch.arrays.candidate_block_ids_BN, batch.arrays.target_ids_BM, batch.arrays.is_masked_BM, strict=True
    ):
        own = (int(targets_M[is_masked_M][0]) - 100) // 8
        assert ids_N.tolist() == [-1, *[(own + i) % 30 for i in (1, 2, 3)]]


def test_blocks_without_salient_spans_are_counted_not_lost():
    one, position, used, skipped = generator(), 0, 0, 0
    while position < 30:
        batch = one.batch_at(position)
        used += len(batch.arrays.query_ids_BL)
        skipped += batch.skipped.get("no_salient_span", 0)
        assert batch.num_seen == len(batch.arrays.query_ids_BL) + sum(batch.skipped.values())
        assert batch.next_position == used + skipped
        position = batch.next_position


def test_the_batch_at_a_position_is_the_same_each_time_and_another_seed_gives_others():
    first, again = generator().batch_at(6), generator().batch_at(6)
    np.testing.assert_array_equal(first.arrays.joint_ids_BNL, again.arrays.joint_ids_BNL)
    other = generator(seed=6).batch_at(6)
    assert other.arrays.query_ids_BL.tolist() != first.arrays.query_ids_BL.tolist()


def test_ranks_train_on_different_blocks():
    blocks = [
        {DataOrder(num_blocks=30, seed=5, rank=rank, num_ranks=3).block_at(p)[0] for p in range(10)}
        for rank in range(3)
    ]
    assert set.union(*blocks) == set(range(30))
    assert sum(len(b) for b in blocks) == 30


def test_a_copy_of_the_sentences_own_block_is_no_candidate():
    class Copies(Records):
        """Blocks 2, 8, 14, 20 and 26 have the text of the block before."""

        def uids(self, block_ids_K):
            return super().uids(np.where(block_ids_K % 6 == 2, block_ids_K - 1, block_ids_K))

    batches = [generator(records=Copies()).batch_at(position) for position in range(30)]
    by_own = {}
    for batch in batches:
        owns = (batch.arrays.target_ids_BM[:, 0] - 100) // 8
        by_own |= dict(zip(owns.tolist(), batch.arrays.candidate_block_ids_BN.tolist(), strict=True))
    assert by_own[1] == [-1, 3, 4, 5]
    assert by_own[4] == [-1, 5, 6, 7]
    assert by_own[5] == [-1, 6, 7, 9], "of two candidates with one text the better one stays"


def test_a_corpus_of_too_few_other_blocks_is_an_error_not_an_endless_search():
    class Same(Records):
        def uids(self, block_ids_K):
            return super().uids(block_ids_K * 0)

    with pytest.raises(TrainingError, match=r"no usable sentence in 30 blocks .*too_few_candidates"):
        generator(records=Same()).batch_at(0)


def test_a_swap_in_the_midst_of_a_batch_begins_it_again():
    searcher = Searcher(["s0", "s1"])
    one = generator(searcher=searcher)
    calls = []
    original = searcher.search_token_ids

    def few_at_first(token_ids, num_hits, **options):
        result = original(token_ids, num_hits, **options)
        calls.append(result.snapshot_id)
        if len(calls) == 1:
            return SimpleNamespace(
                block_ids_BK=np.where(np.arange(len(token_ids))[:, None] == 0, -1, result.block_ids_BK),
                snapshot_id="s0", encoder_step=0,
            )  # fmt: skip
        return result

    searcher.search_token_ids = few_at_first
    batch = one.batch_at(0)
    assert calls == ["s0", "s1", "s1"]
    assert batch.snapshot_id == "s1"
    assert batch.encoder_step == 1


def test_a_corpus_with_nothing_to_mask_is_an_error_not_an_endless_search():
    class NoSpans(Records):
        def row(self, block_id):
            return {**super().row(block_id), "salient_span_starts": [], "salient_span_stops": []}

    with pytest.raises(TrainingError, match="no usable sentence in 30 blocks"):
        generator(NoSpans()).batch_at(0)


def test_without_a_null_document_all_candidates_are_retrieved():
    batch = generator(has_null_document=False).batch_at(0)
    for ids_N, targets_M in zip(batch.arrays.candidate_block_ids_BN, batch.arrays.target_ids_BM, strict=True):
        own = (int(targets_M[0]) - 100) // 8
        assert ids_N.tolist() == [(own + i) % 30 for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("masking", ["random-uniform", "random-span"])
def test_random_masks_use_every_block(masking):
    batch = generator(masking=masking).batch_at(0)
    assert (batch.num_seen, batch.skipped) == (3, {})
    assert batch.arrays.is_masked_BM.sum(axis=1).tolist() == [1, 1, 1]
