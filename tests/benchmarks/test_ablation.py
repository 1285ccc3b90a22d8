import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import write_corpus

from benchmarks import ablation
from benchmarks.ablation_corpus import (
    MOST_OTHERS,
    MOST_OTHERS_OF_ARTICLE,
    AskedQuestion,
    BlocksInMemory,
    read_corpus,
    recall_at_5,
    with_recurring_spans,
)
from benchmarks.ablation_index import MemorySnapshot
from benchmarks.ablation_presets import ICT, PRESETS, ROWS, with_changes
from benchmarks.ablation_reader import new_config, train_reader
from benchmarks.ablation_start import embedder_of
from benchmarks.ablation_store import AblationFolder
from benchmarks.ablation_words import word_vectors
from realm_core.errors import UsageError
from realm_core.modeling.checkpoints import load_tokenizer
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.records import Block

TINY = replace(
    PRESETS["smoke"], hidden_size=32, query_length_tokens=32, block_length_tokens=64, num_articles=None,
    num_questions=6, mlm_steps=3, mlm_batch_size=4, ict_steps=3, ict_batch_size=4, realm_steps=4, realm_batch_size=2,
    num_candidates=3, refresh_interval_steps=2, seeds=(0, 1),
)  # fmt: skip


def block(title, number, spans=((1, 2),)):
    return Block(title, title, f"text {number} of {title}", (9,), (20 + number, 21 + number, 22 + number), (0,), spans)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Articles and questions in the form of the SQuAD folder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "squad").mkdir()
    documents = [json.loads(line) for line in write_corpus(folder / "documents.jsonl", 10).read_text().splitlines()]
    with gzip.open(folder / "squad" / "documents.jsonl.gz", "wt") as file:
        for document in documents:
            sentences = document["text"].split(". ")
            paragraphs = [". ".join(sentences[at : at + 3]) for at in range(0, len(sentences), 3)]
            file.write(json.dumps({"title": document["title"], "paragraphs": paragraphs}) + "\n")
    with gzip.open(folder / "squad" / "questions-valid.jsonl.gz", "wt") as file:
        for document in documents[5:]:
            question = {"question": "who built the tower", "answers": ["built"], "title": document["title"]}
            file.write(json.dumps(question) + "\n")
    return folder


def test_the_rows_are_those_of_the_issue():
    assert [ICT, *ROWS] == ["ict", "realm", "random_uniform", "random_span", "stale_30x", "no_null"]


def test_another_size_has_a_folder_of_its_own_and_other_seeds_have_not():
    assert with_changes(TINY, ["realm_steps=5"]).digest != TINY.digest
    assert replace(TINY, seeds=(7,)).digest == TINY.digest


@pytest.mark.parametrize("change", ["realm_step=5", "realm_steps=x", "realm_steps", "seeds=3", "realm_steps=-1"])
def test_a_size_that_there_is_not_is_refused(change):
    with pytest.raises(UsageError, match=f"--set: {change}"):
        with_changes(TINY, [change])


def test_articles_of_the_questions_are_always_in_the_corpus(data, tiny_bert):
    blocks, questions = read_corpus(data, load_tokenizer(tiny_bert), replace(TINY, num_articles=5, num_questions=99))
    assert len(questions) == 5
    assert {question.title for question in questions} == {block.title for block in blocks.blocks}


def test_recall_counts_an_answer_in_the_questions_own_article_only():
    blocks = BlocksInMemory([block("A", 0), block("B", 0)])
    questions = [AskedQuestion((1,), "A", ("text 0",)), AskedQuestion((1,), "B", ("text 0",))]
    assert recall_at_5(blocks, questions, np.array([[0], [0]])) == 0.5


def test_salient_spans_stand_in_some_other_paragraphs_of_the_article_and_in_few_of_all():
    _everywhere, _once, in_two, in_two_and_elsewhere = spans = [(at, at + 1) for at in range(4)]
    article = [
        Block("A", "A", "text", (9,), (30, 40 + n, 50 + n // 2, 90 + n // 2), (0,), tuple(spans))
        for n in range(2 * MOST_OTHERS_OF_ARTICLE)
    ]
    elsewhere = [Block(f"B{n}", f"B{n}", "text", (8,), (90,), (0,)) for n in range(MOST_OTHERS)]
    found = with_recurring_spans([*article, *elsewhere])
    assert [block.salient_spans for block in found[:2]] == [(in_two,)] * 2
    assert [block.salient_spans for block in found[2 : len(article)]] == [(in_two, in_two_and_elsewhere)] * 8
    assert [replace(block, salient_spans=()) for block in found] == [
        replace(block, salient_spans=()) for block in (*article, *elsewhere)
    ]


def test_a_blocks_neighbour_is_of_its_article():
    blocks = BlocksInMemory([block("A", 0), block("A", 1), block("B", 2)])
    assert [blocks.neighbour(number) for number in range(3)] == [1, 0, 2]


def test_paragraphs_with_what_is_masked_are_the_other_ones_of_the_article():
    blocks = BlocksInMemory([block("A", 0), block("A", 1), block("A", 2), block("B", 1)])
    assert blocks.with_tokens(0, (21, 22)) == [1]
    assert blocks.with_tokens(0, (9,)) == [1, 2]  # in the title
    assert blocks.with_tokens(3, (21,)) == []


def test_words_of_one_article_have_like_vectors_and_words_that_do_not_occur_have_none():
    texts = {"A": (20, 21, 22), "B": (40, 41, 42)}
    blocks = BlocksInMemory(
        [Block(title, title, "", (9,), (*body, 60 + number), (0,), ()) for number in range(4)
         for title, body in texts.items()]
    )  # fmt: skip
    vectors_VH, is_known_V = word_vectors(blocks, vocab_size=80, hidden_size=4)
    assert sorted(is_known_V.nonzero().flatten().tolist()) == [20, 21, 22, 40, 41, 42, 60, 61, 62, 63]
    torch.testing.assert_close(vectors_VH.norm(dim=1), is_known_V.float())
    assert vectors_VH[20] @ vectors_VH[21] > 0.99 > 0.1 > abs(vectors_VH[20] @ vectors_VH[40])


def test_a_snapshot_keeps_the_encoder_it_was_made_with(tiny_bert):
    special = ablation.special_tokens_of(load_tokenizer(tiny_bert))
    encoder = RealmKnowledgeAugEncoder(new_config(TINY, 200, special.pad_id))
    embedder = embedder_of(encoder, seed=1)
    blocks = BlocksInMemory([block("A", number) for number in range(8)])
    snapshot = MemorySnapshot(blocks, embedder, special, step=5, device="cpu")
    before = snapshot.search_token_ids([(20, 21), (24, 25)], 3)
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.normal_()
    after = snapshot.search_token_ids([(20, 21), (24, 25)], 3)
    np.testing.assert_array_equal(before.block_ids_BK, after.block_ids_BK)
    assert (before.snapshot_id, before.encoder_step) == ("step-000005", 5)
    assert (np.diff(before.relevances_BK, axis=1) <= 0).all()


def test_masked_language_modeling_learns_the_text(tiny_bert):
    special = ablation.special_tokens_of(load_tokenizer(tiny_bert))
    torch.manual_seed(0)
    encoder = RealmKnowledgeAugEncoder(new_config(TINY, 200, special.pad_id))
    blocks = BlocksInMemory([block("A", number) for number in range(4)])
    preset = with_changes(TINY, ["mlm_steps=60", "mlm_learning_rate=0.01"])
    losses = train_reader(encoder, blocks, preset, special, device="cpu", say=print)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_result_without_its_file_is_not_done(tmp_path):
    folder = AblationFolder(tmp_path / "work")
    model = torch.nn.Linear(2, 2)
    assert folder.result("row") is None
    folder.write("row", {"recall_at_5": 0.5}, model)
    assert folder.result("row") == {"recall_at_5": 0.5}
    other = torch.nn.Linear(2, 2)
    folder.load("row", other)
    torch.testing.assert_close(other.weight, model.weight)
    (tmp_path / "work" / "row.json").unlink()
    assert folder.result("row") is None


@pytest.fixture(scope="module")
def ran(data, tiny_bert, tmp_path_factory):
    """Options and result of a whole tiny run."""
    pytest.importorskip("matplotlib")
    work = tmp_path_factory.mktemp("work")
    patch = pytest.MonkeyPatch()
    patch.setitem(PRESETS, "smoke", TINY)
    arguments = ["--preset", "smoke", "--data", str(data), "--encoder", str(tiny_bert), "--work", str(work)]
    options = ablation.parse(arguments)
    yield options, ablation.main(options), work / f"smoke-{TINY.digest}"
    patch.undo()


def test_every_row_is_measured_with_spread_and_drawn(ran):
    _, result, folder = ran
    assert list(result["recall_at_5"]) == ["ict", *ROWS]
    for name, of_seeds in result["recall_at_5_of_seeds"].items():
        assert len(of_seeds) == 2
        assert result["recall_at_5"][name] == pytest.approx(sum(of_seeds) / 2)
        assert result["recall_at_5_std"][name] == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / 2**0.5)
    assert (folder / "ablation.png").stat().st_size > 1000
    row = json.loads((folder / "realm-seed-1.json").read_text())
    assert [step for step, _ in row["curve"]] == [0, 2, 4]
    assert row["curve"][0][1] == result["recall_at_5_of_seeds"]["ict"][1]


def test_only_the_row_without_a_null_document_has_no_utility(ran):
    folder = ran[2]
    utilities = {name: json.loads((folder / f"{name}-seed-0.json").read_text())["retrieval_utilities"] for name in ROWS}
    assert utilities.pop("no_null") is None
    assert all(len(values) == TINY.realm_steps for values in utilities.values())


def test_a_rerun_does_what_is_missing_and_nothing_else(ran):
    options, result, folder = ran
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    kept = (folder / "stale_30x-seed-1.json").read_text()
    (folder / "stale_30x-seed-1.json").unlink()
    again = ablation.main(options)
    assert again["recall_at_5"] == result["recall_at_5"]
    after = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    assert [name for name in after if after[name] != before[name]] == ["stale_30x-seed-1.json"]
    redone, first = json.loads((folder / "stale_30x-seed-1.json").read_text()), json.loads(kept)
    assert {**redone, "seconds": 0} == {**first, "seconds": 0}
