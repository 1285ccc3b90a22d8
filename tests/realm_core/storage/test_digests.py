import numpy as np
import pyarrow as pa

from realm_core.storage.digests import digest_of, digest_of_table, digest_of_uids


def table(bodies, ids):
    return pa.table(
        {
            "body": bodies,
            "ids": pa.array(ids, pa.list_(pa.uint16())),
            "uid": pa.array([b"x" * 20] * len(ids), pa.binary(20)),
        }
    )


def test_a_digest_does_not_depend_on_key_order_but_on_values():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_table_digest_does_not_depend_on_chunks_or_offsets():
    whole = table(["ab", "c", "d"], [[1, 2], [], [3]])
    pieces = pa.concat_tables([table(["zz", "ab"], [[9], [1, 2]]).slice(1), table(["c", "d"], [[], [3]])])
    assert digest_of_table(whole) == digest_of_table(pieces)


def test_a_table_digest_sees_where_values_are_divided():
    assert digest_of_table(table(["ab", "c"], [[1], [2]])) != digest_of_table(table(["a", "bc"], [[1], [2]]))
    assert digest_of_table(table(["a", "b"], [[1, 2], []])) != digest_of_table(table(["a", "b"], [[1], [2]]))


def test_a_uid_digest_is_of_the_collection():
    uids = np.frombuffer(b"".join(bytes([i]) * 20 for i in range(4)), "V20")
    assert digest_of_uids(uids) == digest_of_uids(uids[::-1].copy())
    assert digest_of_uids(uids) != digest_of_uids(uids[:3])
    assert digest_of_uids(uids) != digest_of_uids(uids[[0, 1, 2, 2]])
