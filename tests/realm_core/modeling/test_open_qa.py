from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.tiny_encoders import VOCAB_SIZE, WORDS, realm_config, write_vocabulary

from realm_core.errors import UsageError
from realm_core.index.build import build_searcher
from realm_core.index.specs import IndexSpec, resolve_spec
from realm_core.modeling.open_qa import RealmForOpenQA
from realm_core.modeling.retriever import RealmRetriever
from realm_core.modeling.tokenization import RealmTokenizer
from realm_core.retrieval.snapshot_search import SearchResult

NUM_BLOCKS = 60
QUESTIONS = ["the cat sat", "paris", "on a mat the cats sat", "a"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder)
    return RealmTokenizer(vocab_file=folder / "vocab.txt")


@pytest.fixture(scope="module")
def retriever(tokenizer):
    rng = np.random.default_rng(0)
    words = [word for word in WORDS[5:] if not word.startswith("##")]
    return RealmRetriever([" ".join(rng.choice(words, size=rng.integers(6, 14))) for _ in range(NUM_BLOCKS)], tokenizer)


def config(**overrides):
    sizes = {
        "reader_beam_size": 3,
        "searcher_beam_size": 8,
        "max_span_width": 3,
        "reader_seq_len": 24,
        "span_hidden_size": 8,
        "num_block_records": NUM_BLOCKS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return realm_config(**{**sizes, **overrides})


@pytest.fixture
def model(retriever):
    torch.manual_seed(1)
    model = RealmForOpenQA(config(), retriever).eval()
    model.block_emb = torch.randn(NUM_BLOCKS, 8)
    return model


def batch(tokenizer, questions=QUESTIONS):
    return tokenizer(questions, padding=True, return_tensors="pt")


def answers(tokenizer):
    texts = [["a mat", "cat"], ["on"], ["sat"], ["paris", "the", "a"]]
    return [tokenizer(of_question, add_special_tokens=False)["input_ids"] for of_question in texts]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_batch_answers_as_one_by_one(model, tokenizer, training):
    model.train(training)
    wanted = answers(tokenizer)
    together = model(**batch(tokenizer), answer_ids=wanted)
    alone = [model(**batch(tokenizer, [q]), answer_ids=wanted[i]) for i, q in enumerate(QUESTIONS)]
    for i, one in enumerate(alone):
        assert torch.equal(together.predicted_answer_ids[i], one.predicted_answer_ids)
        for name in ("block_idx", "start_pos", "end_pos", "retriever_correct"):
            assert torch.equal(together.reader_output[name][i], one.reader_output[name]), name
        for name in ("retriever_loss", "reader_loss"):
            torch.testing.assert_close(
                together.reader_output[name][i], one.reader_output[name], rtol=1e-4, atol=1e-5, msg=name
            )
    mean = torch.stack([one.reader_output.loss for one in alone]).mean()
    torch.testing.assert_close(together.reader_output.loss, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["exact", "faiss", "scann"])
def test_any_searcher_can_be_injected(model, tokenizer, kind):
    expected = model(**batch(tokenizer)).predicted_answer_ids
    embeddings = model.block_emb.numpy()
    searcher = build_searcher(embeddings, resolve_spec(IndexSpec(kind=kind), NUM_BLOCKS))
    model.block_emb, model.searcher = None, searcher
    for found, wanted in zip(model(**batch(tokenizer)).predicted_answer_ids, expected, strict=True):
        assert torch.equal(found, wanted)


class Service:
    """Answers as the retrieval service does, and has fewer blocks than it is asked for."""

    def __init__(self, block_ids):
        self.block_ids = np.array(block_ids)

    def search(self, queries_BD, num_hits):
        missing = num_hits - len(self.block_ids)
        ids = np.concatenate([self.block_ids, np.full(missing, -1)])[None].repeat(len(queries_BD), 0)
        relevances = np.where(ids < 0, -np.inf, 1.0).astype(np.float32)
        return SearchResult(relevances, ids, "step-000000", 0)


def test_what_a_service_found_is_read_and_missing_hits_are_left_out(model, tokenizer):
    model.block_emb, model.searcher = None, Service([7, 11])
    output = model(**batch(tokenizer, QUESTIONS[:1]), answer_ids=answers(tokenizer)[0])
    assert output.reader_output.retriever_correct.shape == (2,)


def test_the_gradient_reaches_the_questions_embedder_in_training(model, tokenizer):
    model.train()
    model(**batch(tokenizer), answer_ids=answers(tokenizer)).reader_output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad), name
    assert model.embedder.cls.dense.weight.grad.abs().sum() > 0


def test_the_beam_is_wide_in_training_and_narrow_in_evaluation(model):
    assert model.eval().searcher_beam_size == 3
    assert model.train().searcher_beam_size == 8


def test_block_embeddings_are_in_a_checkpoint_only_when_asked_for(model, retriever, tokenizer, tmp_path):
    expected = model(**batch(tokenizer)).predicted_answer_ids
    model.save_pretrained(tmp_path / "without")
    model.save_pretrained(tmp_path / "with", save_block_emb=True)
    assert "block_emb" not in tensor_names(tmp_path / "without")
    assert "block_emb" in tensor_names(tmp_path / "with")
    without, info = RealmForOpenQA.from_pretrained(tmp_path / "without", retriever=retriever, output_loading_info=True)
    assert without.block_emb is None
    assert not any(info.values())
    loaded = RealmForOpenQA.from_pretrained(tmp_path / "with", retriever=retriever)
    assert torch.equal(loaded.block_emb, model.block_emb)
    for found, wanted in zip(loaded(**batch(tokenizer)).predicted_answer_ids, expected, strict=True):
        assert torch.equal(found, wanted)
    searching = RealmForOpenQA.from_pretrained(tmp_path / "with", retriever=retriever, searcher=Service([1]))
    assert searching.block_emb is None
    with pytest.raises(ValueError, match="no block embeddings"):
        without.save_pretrained(tmp_path / "nothing", save_block_emb=True)


def tensor_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def test_a_state_dict_with_block_embeddings_is_taken(model, retriever):
    other = RealmForOpenQA(config(), retriever)
    other.load_state_dict({**model.state_dict(), "block_emb": model.block_emb})
    assert torch.equal(other.block_emb, model.block_emb)


def test_block_embedding_to_moves_them_alone(model):
    model.block_embedding_to("meta")
    assert model.block_emb.device.type == "meta"
    assert model.embedder.device.type == "cpu"


def test_what_is_missing_is_named(model, tokenizer):
    questions = batch(tokenizer, QUESTIONS[:1])
    model.block_emb = None
    with pytest.raises(ValueError, match="nothing to search"):
        model(**questions)
    model.searcher = Service([1, 2])
    with pytest.raises(ValueError, match="training needs block_emb"):
        model.train()(**questions)
    model.retriever = None
    with pytest.raises(ValueError, match="no retriever"):
        model.eval()(**questions)
    with pytest.raises(ValueError, match="input_ids"):
        model()


def test_the_vocabulary_of_these_tests_is_that_of_the_model(tokenizer):
    assert len(tokenizer) == VOCAB_SIZE


def test_the_answers_of_one_question_come_with_or_without_a_list_around_them(model, tokenizer):
    inputs, wanted = batch(tokenizer, QUESTIONS[:1]), answers(tokenizer)[0]
    losses = [model(**inputs, answer_ids=form).reader_output.loss for form in (wanted, [wanted])]
    assert torch.equal(*losses)


def test_answers_of_another_number_of_questions_are_refused(model, tokenizer):
    inputs, wanted = batch(tokenizer, QUESTIONS[:2]), answers(tokenizer)
    with pytest.raises(UsageError, match="the answers of one question; expected a list of 2 lists"):
        model(**inputs, answer_ids=wanted[0])
    with pytest.raises(UsageError, match="answers of 1 questions; expected a list of 2 lists"):
        model(**inputs, answer_ids=wanted[:1])


def test_a_question_of_a_batch_may_have_no_answer(model, tokenizer):
    inputs, wanted = batch(tokenizer, QUESTIONS[:2]), answers(tokenizer)
    output = model(**inputs, answer_ids=[wanted[0], []]).reader_output
    assert not output.retriever_correct[1].any()
    assert output.reader_loss[1] == 0


def test_no_question_of_a_batch_may_have_an_answer(model, tokenizer):
    output = model(**batch(tokenizer, QUESTIONS[:2]), answer_ids=[[], []]).reader_output
    assert output.loss == 0
