import numpy as np
import pytest

from realm_core.errors import QueryError
from realm_core.retrieval.block_fields import FIELDS, BlockFields
from realm_core.storage.block_store import BlockRecords


def test_fields_are_those_of_the_records_and_none_where_a_hit_is_missing(synthetic_store):
    corpus = synthetic_store.corpus
    ids = np.array([[0, 399, 123], [7, -1, -1]])
    found = BlockFields(synthetic_store.store).look_up(corpus.digest, ids, FIELDS)
    records = BlockRecords(synthetic_store.store, corpus)
    for name in FIELDS:
        for ids_K, values in zip(ids.tolist(), found[name], strict=True):
            for block_id, value in zip(ids_K, values, strict=True):
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                assert plain == (None if block_id < 0 else records.take([block_id], [name])[0][name])


def test_token_ids_are_uint16_and_share_the_mapped_file(synthetic_store):
    fields = BlockFields(synthetic_store.store)
    (values,) = fields.look_up(synthetic_store.corpus.digest, np.array([[5, 6]]), ["body_token_ids"])["body_token_ids"]
    assert [value.dtype for value in values] == [np.uint16] * 2
    assert not values[0].flags.owndata
    assert not values[0].flags.writeable


@pytest.mark.parametrize(
    ("ids", "fields", "message"),
    [([[400]], ["title"], "block id 400"), ([[1]], ["titel"], r"the fields titel; expected some of uid, document_id")],
)
def test_unknown_blocks_and_fields_are_refused(synthetic_store, ids, fields, message):
    with pytest.raises(QueryError, match=message):
        BlockFields(synthetic_store.store).look_up(synthetic_store.corpus.digest, np.array(ids), fields)
