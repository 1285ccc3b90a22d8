import pytest

from realm_core.errors import ArtifactCorruptError, QueryError
from realm_core.records import Block
from realm_core.storage.block_store import (
    BlockRecords,
    CorpusManifest,
    load_corpus,
    part_is_whole,
    part_path,
    read_part,
    records_path,
    save_corpus,
)
from realm_core.storage.corpus_writer import CorpusWriter, part_of_document
from realm_core.storage.files import Store


def block(document, number):
    return Block(
        document_id=f"d{document}",
        title=f"title {document}",
        body=f"body {number}",
        title_token_ids=(document,),
        body_token_ids=(7, number),
        sentence_starts=(0,),
        salient_spans=((1, 2),),
    )


def write(store, blocks, folder, num_parts=4):
    folder.mkdir()
    writer = CorpusWriter(store, num_parts=num_parts, spill_folder=folder)
    for one in blocks:
        writer.add([one])
    written = writer.finish()
    manifest = CorpusManifest(
        parts=written.parts,
        tokenizer_digest="t",
        max_block_tokens=288,
        uid_digest=written.uid_digest,
        source="s",
        counts={},
    )
    save_corpus(store, manifest)
    return manifest, written


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def all_blocks():
    return [block(document, document * 100 + n) for document in range(40) for n in range(30)]


def test_every_block_is_there_once_and_documents_keep_to_one_part(store, tmp_path):
    manifest, _ = write(store, all_blocks(), tmp_path / "spill")
    bodies = []
    for part in manifest.parts:
        table = read_part(store, part)
        documents = set(table["document_id"].to_pylist())
        assert len({part_of_document(d, 4) for d in documents}) == 1
        bodies += table["body"].to_pylist()
    assert sorted(bodies) == sorted(b.body for b in all_blocks())
    assert load_corpus(store) == manifest


def test_duplicates_are_kept_once_even_over_parts(store, tmp_path):
    copies = [
        Block(**{**{f: getattr(b, f) for f in b.__dataclass_fields__}, "document_id": "copy"}) for b in all_blocks()[:5]
    ]
    manifest, written = write(store, all_blocks() + copies + all_blocks()[:3], tmp_path / "spill")
    assert manifest.num_blocks == len(all_blocks())
    assert written.num_duplicate_blocks == 8


def test_an_unchanged_document_leaves_its_part_unchanged(store, tmp_path):
    before, _ = write(store, all_blocks(), tmp_path / "a")
    changed = [b for b in all_blocks() if b.document_id != "d3"] + [block(3, 9999)]
    after, written = write(store, changed, tmp_path / "b")
    same = {p.digest for p in before.parts} & {p.digest for p in after.parts}
    assert len(same) == len(before.parts) - 1 == written.num_reused_parts


def test_blocks_are_looked_up_by_id(store, tmp_path):
    manifest, _ = write(store, all_blocks(), tmp_path / "spill")
    records = BlockRecords(store, manifest)
    in_order = [body for part in manifest.parts for body in read_part(store, part)["body"].to_pylist()]
    assert [row["body"] for row in records.take(range(len(records)))] == in_order
    with pytest.raises(QueryError, match="block id 1200; expected 0 to 1199"):
        records.take([1200])


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_part_is_noticed(store, tmp_path, damage):
    manifest, _ = write(store, all_blocks(), tmp_path / "spill")
    path = tmp_path / "store" / part_path(manifest.parts[0].digest)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 3] ^= 0x10
    else:
        del data[-20:]
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match=r"parts/.*Remove it and run"):
        read_part(store, manifest.parts[0])


@pytest.mark.parametrize("path_of", [part_path, records_path])
@pytest.mark.parametrize("where", [0.3, 0.5])
def test_a_damaged_file_is_made_again_by_writing_the_same_blocks(store, tmp_path, path_of, where):
    manifest, _ = write(store, all_blocks(), tmp_path / "a")
    digest = manifest.parts[0].digest
    path = tmp_path / "store" / path_of(digest)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[int(len(data) * where)] ^= 0x08
    path.write_bytes(data)
    assert not part_is_whole(store, digest)
    write(store, all_blocks(), tmp_path / "b")
    assert part_is_whole(store, digest)
    assert path.read_bytes() == whole
