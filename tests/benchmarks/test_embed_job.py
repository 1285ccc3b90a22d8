"""Overhead, scaling and recall: what is computed of the measurements, and the stand-in engine."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.embed_blocks import Blocks, Document
from benchmarks.embed_overhead import Timed, chosen_sentences, overheads
from benchmarks.embed_recall import make_task, recall_at
from benchmarks.embed_scaling import OwnCpu, Scale, efficiencies, save_plot, summary_of
from benchmarks.embed_stand_in import DIMENSION, StandInLoader
from benchmarks.embed_store import write_corpus
from realm_core.errors import UsageError
from realm_core.storage.block_store import read_part
from realm_core.storage.files import Store


def timed(seconds):
    return Timed(seconds=seconds, start_seconds=1.0)


def scale(num_actors, seconds):
    return Scale(
        num_actors=num_actors,
        num_parts=8 * num_actors,
        seconds=seconds,
        start_seconds=1.0,
        own_cpu_share=0.1,
        busy_cpu_share=0.2,
    )


def blocks_of(lengths):
    texts = [f"text {number}" for number in range(len(lengths))]
    ids = [np.arange(length - 3, dtype=np.uint16) for length in lengths]
    return Blocks(titles=[""] * len(ids), bodies=texts, title_ids=[ids[0][:0]] * len(ids), body_ids=ids)


def test_overhead_is_by_round():
    assert overheads([timed(10), timed(20)], [timed(11), timed(20)]) == [pytest.approx(0.1), 0]


def test_sentences_are_chosen_by_length_and_once():
    blocks = blocks_of([39, 40, 50, 60, 61, 45])
    assert chosen_sentences(blocks, 4).lengths_R.tolist() == [40, 50, 60, 45]
    blocks.bodies[5] = blocks.bodies[1]
    assert chosen_sentences(blocks, 3).lengths_R.tolist() == [40, 50, 60]
    with pytest.raises(UsageError, match="--blocks: 4; expected at most 3"):
        chosen_sentences(blocks, 4)


def test_efficiency_is_seconds_with_one_by_seconds_with_many():
    scales = [scale(1, 9.5), scale(64, 10.0)]
    assert efficiencies(scales) == [1, 0.95]
    assert summary_of(scales)["efficiency_at_64"] == 0.95
    assert summary_of([scale(2, 1.0), scale(64, 1.0)])["efficiency_at_64"] is None
    assert summary_of(scales[:1])["efficiency_at_64"] is None


def test_the_plot_is_written(tmp_path):
    save_plot([scale(1, 9.5), scale(2, 10.0)], tmp_path / "images" / "plot.png")
    assert (tmp_path / "images" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_stand_in_gives_a_row_the_same_vector_in_any_company(tmp_path):
    engine = StandInLoader(seconds_per_row=0.0).load(Store(str(tmp_path)), "e", "fp32")
    rows = blocks_of([20, 30, 25]).body_ids
    done = []
    embeddings_RD = engine.encode(rows, rows, progress=done.append)
    assert embeddings_RD.shape == (3, DIMENSION)
    assert np.isfinite(embeddings_RD).all()
    assert (engine.encode(rows[1:], rows[1:]) == embeddings_RD[1:]).all()
    assert sum(work.num_rows for work in done) == 3


def test_parts_of_a_size_are_written(tmp_path):
    store, blocks = Store(str(tmp_path)), blocks_of([10, 11, 12, 13, 14])
    corpus = write_corpus(store, blocks, rows_per_part=2)
    assert [part.num_rows for part in corpus.parts] == [2, 2, 1]
    assert [part.first_block_id for part in corpus.parts] == [0, 2, 4]
    tables = [read_part(store, part) for part in corpus.parts]
    assert [body for table in tables for body in table["body"].to_pylist()] == blocks.bodies
    assert sum(part.num_tokens for part in corpus.parts) == int(blocks.lengths_R.sum()) - 3 * 5


def test_recall_counts_queries_whose_own_block_is_among_the_first():
    blocks_RD = np.array([[1.0, 0], [0.9, 0], [0, 1]])
    queries_BD = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
    own_rows_B = np.array([0, 1, 0])
    assert recall_at(queries_BD, blocks_RD, own_rows_B, 1) == pytest.approx(1 / 3)
    assert recall_at(queries_BD, blocks_RD, own_rows_B, 2) == 1
    assert recall_at(np.repeat(queries_BD, 400, axis=0), blocks_RD, np.repeat(own_rows_B, 400), 1) == pytest.approx(
        1 / 3
    )


def test_questions_point_to_their_paragraphs():
    words = ["[UNK]", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    documents = [Document("x", ("a", "b")), Document("y", ("c", "d", "e")), Document("z", ("f",))]
    questions = [
        {"question": "g h", "title": "y", "paragraph": 2},
        {"question": "h", "title": "z", "paragraph": 0},
    ]

    def own(**options):
        task = make_task(documents, questions, tokenizer, **options)
        return [task.blocks.bodies[row] for row in task.own_rows_B], len(task.blocks)

    assert own(all_articles=False, num_articles=None) == (["e", "f"], 4)
    assert own(all_articles=True, num_articles=None) == (["e", "f"], 6)
    assert own(all_articles=False, num_articles=1) == (["e"], 3)


def test_cpu_seconds_of_a_process_that_ended_still_count():
    own_cpu = OwnCpu()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while own_cpu.seconds() < 0.5:
            time.sleep(0.05)
    finally:
        busy.kill()
        busy.wait()
    assert own_cpu.seconds() >= 0.5
