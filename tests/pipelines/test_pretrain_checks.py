"""Each of these would else fail on the ranks, at their start or at some step; found before Ray starts."""

from dataclasses import replace

import pytest
from support.snapshots import SyntheticStore, synthetic_block
from support.tiny import write_bert

from pipelines.pretrain_checks import check_inputs
from realm_core.errors import EncoderError, TrainingError, UsageError
from realm_core.modeling.checkpoints import load_encoder, tokenizer_digest
from realm_core.storage.corpus_writer import CorpusWriter
from realm_core.storage.encoder_store import put_encoder
from realm_core.training.featurization import FeaturizerConfig


class Prepared:
    """Corpus, snapshot and reader that go together; `check` says so, or what does not."""

    def __init__(self, folder, bert):
        self.synthetic = SyntheticStore(folder, num_blocks=40)
        self.store, self.reader, self.folder = self.synthetic.store, str(bert), folder
        encoder = load_encoder(bert)
        self.snapshot = replace(
            self.synthetic.publish(seed=1, step=0),
            encoder_digest=put_encoder(self.store, encoder),
            dimension=encoder.config.retriever_proj_size,
        )
        self.corpus = replace(self.synthetic.corpus, tokenizer_digest=tokenizer_digest(encoder.tokenizer))

    def check(self, masking="random-span", **sizes):
        featurizer = FeaturizerConfig(**{"query_length_tokens": 64, "block_length_tokens": 128, **sizes})
        check_inputs(self.store, self.corpus, self.snapshot, reader=self.reader, featurizer=featurizer, masking=masking)

    def add_salient_spans(self):
        (self.folder / "more").mkdir()
        writer = CorpusWriter(self.store, num_parts=2, spill_folder=self.folder / "more")
        for number in range(40):
            writer.add([replace(synthetic_block(number), salient_spans=((0, 1),) if number == 39 else ())])
        self.corpus = replace(self.corpus, parts=writer.finish().parts)


@pytest.fixture
def prepared(tmp_path, tiny_bert):
    return Prepared(tmp_path, tiny_bert)


def test_what_goes_together_passes(prepared):
    prepared.check()


def test_a_corpus_without_salient_spans(prepared):
    with pytest.raises(TrainingError, match=r"no salient span in 40 blocks of synthetic.*--masking random-uniform"):
        prepared.check("salient-span")


def test_one_block_with_a_salient_span_is_enough_to_start(prepared):
    prepared.add_salient_spans()
    prepared.check("salient-span")


def test_more_candidates_than_other_blocks(prepared):
    prepared.check(num_candidates=40)
    with pytest.raises(UsageError, match="--num-candidates 41 over 40 blocks; expected at most 40"):
        prepared.check(num_candidates=41)
    with pytest.raises(UsageError, match="--num-candidates 40 over 40 blocks; expected at most 39"):
        prepared.check(num_candidates=40, has_null_document=False)


def test_a_tokenizer_other_than_the_corpus_has(prepared):
    prepared.corpus = replace(prepared.corpus, tokenizer_digest="of another vocabulary")
    with pytest.raises(EncoderError, match="expected tokenizer of another"):
        prepared.check()


def test_an_encoder_of_another_width_than_the_snapshot(prepared):
    prepared.snapshot = replace(prepared.snapshot, dimension=64)
    with pytest.raises(EncoderError, match="embeddings of width 128; expected width 64, that of snapshot step-000000"):
        prepared.check()


def test_a_reader_with_too_few_positions(prepared):
    with pytest.raises(EncoderError, match="512 positions; expected 564"):
        prepared.check(block_length_tokens=500)


def test_a_reader_that_is_no_bert(prepared, tmp_path):
    folder = write_bert(tmp_path / "other")
    config = (folder / "config.json").read_text().replace('"bert"', '"gpt2"')
    (folder / "config.json").write_text(config)
    prepared.reader = str(folder)
    with pytest.raises(EncoderError, match="gpt2"):
        prepared.check()
