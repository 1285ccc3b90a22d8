"""`realm ingest` by paragraphs and with all titles."""

import json

import pytest

from pipelines.cli import main
from pipelines.configs.ingest import IngestConfig
from pipelines.ingest import run_ingest
from realm_core.storage.block_store import CorpusManifest, load_corpus, read_part
from realm_core.storage.digests import digest_of
from realm_core.storage.files import Store

pytestmark = pytest.mark.cluster

LONG = " ".join(["The bridge of Norwick was built by Ada Fenn."] * 20)
DOCUMENTS = [
    {"title": "Bridge", "paragraphs": ["The old bridge.", "The first market of Ashford.", LONG, "\u0001"]},
    {"title": "Tower", "paragraphs": ["The old tower.", "It was built by Felix Marsh.", "The old tower."]},
    {"title": "List of towers", "paragraphs": ["The tower."]},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return path


def bodies(store):
    corpus = load_corpus(store)
    return {row for part in corpus.parts for row in read_part(store, part, ["body"])["body"].to_pylist()}


def test_paragraphs_are_blocks_and_counts_add_up(ray_cluster, tmp_path, source, tiny_bert, capsys):
    url = str(tmp_path / "store")
    main(["ingest", "--store", url, "--source", str(source), "--encoder", str(tiny_bert), "--max-block-tokens", "48",
          "--blocks", "paragraphs", "--keep-all-titles"])  # fmt: skip
    out = capsys.readouterr().out
    corpus = load_corpus(Store(url))
    counts = corpus.counts
    assert corpus.block_rule == "paragraphs"
    assert (counts["documents"], counts["dropped_by_title"]) == (3, 0)
    assert (counts["paragraphs"], counts["empty_paragraphs"], counts["duplicate_blocks"]) == (8, 1, 1)
    assert corpus.num_blocks == 8 - 1 - 1
    assert counts["truncated_blocks"] == 1
    assert "truncated blocks" in out
    assert LONG in bodies(Store(url))


def test_each_choice_makes_a_corpus_of_its_own(ray_cluster, tmp_path, source, tiny_bert):
    def ingest(**choices):
        config = {"store": str(tmp_path / "store"), "source": str(source), "encoder": str(tiny_bert)}
        return run_ingest(IngestConfig(**config, **choices))

    choices = [{}, {"keep_all_titles": True}, {"blocks": "paragraphs"}]
    first = [ingest(**choice) for choice in choices]
    assert len({report.corpus_digest for report in first}) == 3
    assert [report.was_done for report in first] == [False] * 3
    assert "truncated_blocks" not in first[0].counts
    assert first[0].counts["dropped_by_title"] == 1
    again = [ingest(**choice) for choice in choices]
    assert [report.was_done for report in again] == [True] * 3
    assert [report.corpus_digest for report in again] == [report.corpus_digest for report in first]


def test_the_default_rule_leaves_the_digest_of_a_corpus_as_it_was():
    fields = {
        "parts": (),
        "tokenizer_digest": "t",
        "max_block_tokens": 288,
        "uid_digest": "",
        "source": "",
        "counts": {},
    }
    default = CorpusManifest(**fields)
    assert default.digest == digest_of([], "t", 288)
    old = {name: value for name, value in default.to_json().items() if name != "block_rule"}
    assert CorpusManifest.from_json(old) == default
    assert CorpusManifest(**fields, block_rule="paragraphs").digest != default.digest
