"""Code written for the REALM classes of transformers 4.40, run on this project's: only one import line differs.

    python examples/transformers_code.py               # on small checkpoints that it writes first
    python examples/transformers_code.py --published   # on the published ones, from the Hugging Face hub

The small checkpoints have made-up weights, so their answers mean nothing; shapes and calls are those of the real ones.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from realm_core import (
    RealmConfig,
    RealmEmbedder,
    RealmForOpenQA,
    RealmKnowledgeAugEncoder,
    RealmReader,
    RealmRetriever,
    RealmScorer,
    RealmTokenizer,
    RealmTokenizerFast,
)

PUBLISHED = {
    "embedder": "google/realm-cc-news-pretrained-embedder",
    "scorer": "google/realm-cc-news-pretrained-scorer",
    "encoder": "google/realm-cc-news-pretrained-encoder",
    "reader": "google/realm-orqa-nq-reader",
    "openqa": "google/realm-orqa-nq-openqa",
}

QUERIES = ["Who keeps the lighthouse?", "What does the baker sell?"]
CANDIDATES = [
    ["A keeper lives in the tower.", "The river is wide."],
    ["The baker sells bread and cakes.", "Rain fell all night."],
]
MASKED = ["The keeper lights the [MASK] at night.", "The baker sells fresh [MASK] at dawn."]
MASKED_WORDS = ["lamp", "bread"]
QUESTION = "Who built the lighthouse of Norwick?"
ANSWER = "ada fenn"
BLOCKS = [
    "The lighthouse of Norwick was built by Ada Fenn in 1821.",
    "Ada Fenn was an engineer who built three bridges and a lighthouse.",
    "The market of Eastham sells bread, cakes and fish at dawn.",
    "A wide river divides Eastham; the old bridge was built by Bruno Hale.",
    "The keeper of the tower lights the lamp every night.",
    "Norwick has a school, a market and the tower of Ada Fenn.",
]


def configuration() -> None:
    """RealmConfig: fields, defaults, and a model made from them."""
    config = RealmConfig()
    print(f"by default: {config.num_hidden_layers} layers, embeddings of {config.retriever_proj_size} numbers")

    small = RealmConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = RealmEmbedder(small)
    print(f"one's own: {model.config.num_hidden_layers} layers of {model.config.hidden_size}")


def tokenizers(encoder: str) -> None:
    """RealmTokenizer and RealmTokenizerFast: texts, pairs, and queries with candidates."""
    tokenizer = RealmTokenizer.from_pretrained(encoder)
    ids = tokenizer(QUERIES[0]).input_ids
    print(f"word pieces: {' '.join(tokenizer.convert_ids_to_tokens(ids))}")

    fast_tokenizer = RealmTokenizerFast.from_pretrained(encoder)
    pair = fast_tokenizer(QUERIES[0], CANDIDATES[0][0])
    print(f"types of a pair: {''.join(map(str, pair.token_type_ids))}")

    # batch_size = 2, num_candidates = 2
    batch = fast_tokenizer.batch_encode_candidates(CANDIDATES, max_length=10, return_tensors="pt")
    print(f"candidates: {tuple(batch.input_ids.shape)}, {int(batch.attention_mask.sum())} tokens without padding")


def embedder(checkpoint: str) -> None:
    """RealmEmbedder: a text to a vector."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = RealmEmbedder.from_pretrained(checkpoint)

    inputs = tokenizer(QUERIES[0], return_tensors="pt")
    outputs = model(**inputs)

    projected_score = outputs.projected_score
    print(f"embedding: {tuple(projected_score.shape)}, begins {numbers(projected_score[0, :3])}")


def scorer(checkpoint: str) -> None:
    """RealmScorer: how relevant is each candidate to its query?"""
    relevance_score = relevance_of_candidates(checkpoint)
    print(f"relevance: {tuple(relevance_score.shape)}")
    for query, candidates, scores in zip(QUERIES, CANDIDATES, relevance_score, strict=True):
        for candidate, score in zip(candidates, scores, strict=True):
            print(f"  {number(score)}  {query} | {candidate}")


def relevance_of_candidates(checkpoint: str) -> torch.Tensor:
    """Inner products of two queries with two candidates each."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = RealmScorer.from_pretrained(checkpoint, num_candidates=2)

    # batch_size = 2, num_candidates = 2
    inputs = tokenizer(QUERIES, padding=True, return_tensors="pt")
    candidates_inputs = tokenizer.batch_encode_candidates(CANDIDATES, max_length=12, return_tensors="pt")

    outputs = model(
        **inputs,
        candidate_input_ids=candidates_inputs.input_ids,
        candidate_attention_mask=candidates_inputs.attention_mask,
        candidate_token_type_ids=candidates_inputs.token_type_ids,
    )
    return outputs.relevance_score


def knowledge_augmented_encoder(encoder: str, scorer: str) -> None:
    """RealmKnowledgeAugEncoder: masked words from a sentence and its candidates, and the loss of pre-training."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = RealmKnowledgeAugEncoder.from_pretrained(encoder, num_candidates=2)

    # batch_size = 2, num_candidates = 2
    text = [[sentence, sentence] for sentence in MASKED]
    inputs = tokenizer.batch_encode_candidates(text, text_pair=CANDIDATES, max_length=24, return_tensors="pt")

    outputs = model(**inputs)
    logits = outputs.logits
    print(f"logits of every token: {tuple(logits.shape)}")

    is_masked = inputs.input_ids[:, 0] == tokenizer.mask_token_id
    labels = torch.full(is_masked.shape, -100)
    labels[is_masked] = torch.tensor(tokenizer.convert_tokens_to_ids(MASKED_WORDS))
    relevance_score = relevance_of_candidates(scorer)
    loss = model(**inputs, relevance_score=relevance_score, labels=labels, mlm_mask=is_masked.long()).loss
    print(f"loss, marginal over the candidates: {number(loss)}")

    loss.backward()
    gradient = model.realm.embeddings.word_embeddings.weight.grad
    print(f"gradient reaches the word embeddings: {bool(gradient.abs().sum() > 0)}")


def reader(checkpoint: str, tokenizer_of: str) -> None:
    """RealmReader: where in the evidence is the answer?"""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    model = RealmReader.from_pretrained(checkpoint, reader_beam_size=2)

    # num_blocks = 2; the answer is in the first
    evidence = [BLOCKS[0], BLOCKS[2]]
    inputs = tokenizer([QUESTION] * 2, evidence, padding=True, return_special_tokens_mask=True, return_tensors="pt")
    is_word = ~inputs.pop("special_tokens_mask").bool()
    block_mask = is_word & inputs.token_type_ids.bool()
    starts, ends = find(tokenizer(ANSWER, add_special_tokens=False).input_ids, inputs.input_ids, block_mask)

    outputs = model(
        **inputs,
        relevance_score=torch.tensor([1.5, 0.5]),
        block_mask=block_mask,
        start_positions=starts,
        end_positions=ends,
        has_answers=(starts >= 0).any(1),
    )
    answer_ids = inputs.input_ids[outputs.block_idx][outputs.start_pos : outputs.end_pos + 1]
    print(f"loss {number(outputs.loss)}, of which the reader's {number(outputs.reader_loss)}")
    print(f"{QUESTION} {tokenizer.decode(answer_ids)} (block {int(outputs.block_idx)})")


def find(answer_ids: list[int], input_ids: torch.Tensor, block_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last position of an answer in each block, -1 where it is not: two tensors [num_blocks, 1]."""
    windows = input_ids.unfold(1, len(answer_ids), 1)
    is_start = (windows == torch.tensor(answer_ids)).all(-1) & block_mask[:, : windows.shape[1]]
    starts = is_start.long().argmax(1, keepdim=True)
    is_found = is_start.any(1, keepdim=True)
    return starts.where(is_found, -1), (starts + len(answer_ids) - 1).where(is_found, -1)


def retriever(openqa: str) -> None:
    """RealmRetriever: block ids to evidence, and where the answers are."""
    tokenizer = AutoTokenizer.from_pretrained(openqa)
    realm_retriever = RealmRetriever.from_pretrained(openqa)

    question_ids = tokenizer([QUESTION], return_tensors="pt").input_ids
    answer_ids = tokenizer([ANSWER], add_special_tokens=False).input_ids
    has_answers, start_pos, end_pos, concat_inputs = realm_retriever(
        torch.tensor([0, 2, 5]), question_ids, answer_ids, max_length=64, return_tensors="pt"
    )
    print(f"three blocks with the question: {tuple(concat_inputs.input_ids.shape)}, with the answer: {has_answers}")
    print(f"the answer begins at {start_pos} and ends at {end_pos}; -1: not there")


def open_question_answering(openqa: str) -> None:
    """RealmForOpenQA: question in, answer out; with the loss of fine-tuning where answers are given."""
    realm_retriever = RealmRetriever.from_pretrained(openqa)
    tokenizer = AutoTokenizer.from_pretrained(openqa)
    model = RealmForOpenQA.from_pretrained(openqa, retriever=realm_retriever)

    question_ids = tokenizer([QUESTION], return_tensors="pt")
    answer_ids = tokenizer(
        [ANSWER],
        add_special_tokens=False,
        return_token_type_ids=False,
        return_attention_mask=False,
    ).input_ids

    reader_output, predicted_answer_ids = model(**question_ids, answer_ids=answer_ids, return_dict=False)
    print(f"{QUESTION} {tokenizer.decode(predicted_answer_ids)}")
    print(f"loss {number(reader_output.loss)}, blocks with the answer: {int(reader_output.retriever_correct.sum())}")


def auto_classes(checkpoint: str) -> None:
    """AutoConfig, AutoTokenizer and AutoModel, which in 4.40 had to be told what class REALM is to be."""
    config = AutoConfig.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    AutoModel.register(RealmConfig, RealmEmbedder, exist_ok=True)
    model = AutoModel.from_pretrained(checkpoint)
    outputs = model(**tokenizer(QUERIES[1], return_tensors="pt"))
    print(f"{type(config).__name__}, {type(model).__name__}: embedding {tuple(outputs.projected_score.shape)}")


def number(value: torch.Tensor) -> str:
    """A scalar in three decimals."""
    return f"{value.item():.3f}"


def numbers(values: torch.Tensor) -> str:
    """Scalars in three decimals."""
    return " ".join(number(value) for value in values)


def write_small_checkpoints(folder: Path) -> dict[str, str]:
    """Writes one checkpoint of each kind, always the same, and gives their folders by the names of PUBLISHED."""
    vocabulary = write_vocabulary(folder / "vocab.txt")
    tokenizer = RealmTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    retriever = RealmRetriever(np.array([block.encode() for block in BLOCKS], dtype=object), tokenizer)
    config = small_config(len(vocabulary))
    models = {
        "embedder": RealmEmbedder(config),
        "scorer": RealmScorer(config),
        "encoder": RealmKnowledgeAugEncoder(config),
        "reader": RealmReader(config),
        "openqa": RealmForOpenQA(config, retriever),
    }
    for name, model in models.items():
        fill_weights(model)
        model.save_pretrained(folder / name, state_dict=own_tensors(model))
        tokenizer.save_pretrained(folder / name)
    retriever.save_pretrained(folder / "openqa")
    return {name: str(folder / name) for name in models}


def own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Each tensor under the first of its names; 4.40 cannot save a scorer or a reader whose tensors have two."""
    tensors = model.state_dict()
    if hasattr(model, "block_emb"):
        tensors["block_emb"] = model.block_emb
    first_names: dict[int, str] = {}
    for name, tensor in tensors.items():
        first_names.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name] for name in first_names.values()}


def small_config(vocab_size: int) -> RealmConfig:
    """Two narrow layers, and as many block records as there are blocks."""
    return RealmConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        retriever_proj_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        span_hidden_size=16,
        reader_beam_size=4,
        reader_seq_len=64,
        searcher_beam_size=5,
        num_block_records=len(BLOCKS),
        pad_token_id=0,
    )


def write_vocabulary(file: Path) -> list[str]:
    """Special tokens, letters, and every word of the texts above."""
    texts = [*QUERIES, *CANDIDATES[0], *CANDIDATES[1], *MASKED, *MASKED_WORDS, QUESTION, ANSWER, *BLOCKS]
    words = {word for text in texts for word in re.findall(r"\w+|[.,;?]", text.replace("[MASK]", "").lower())}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = {*letters, *(f"##{letter}" for letter in letters)}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces | words)]
    file.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return vocabulary


@torch.no_grad()
def fill_weights(model: torch.nn.Module) -> None:
    """Weights that depend on a parameter's name and shape alone, so that any library makes the same checkpoint."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weight(name, tuple(parameter.shape)))
    if hasattr(model, "block_emb"):
        model.block_emb = weight("block_emb", (model.config.num_block_records, model.config.retriever_proj_size))


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Random, but always the same; the scales of normalization layers lie around 1."""
    values = np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)
    if len(shape) > 1:
        return torch.tensor(values / math.sqrt(shape[-1]), dtype=torch.float32)
    return torch.tensor(0.1 * values + name.endswith("weight"), dtype=torch.float32)


def run(checkpoints: dict[str, str]) -> None:
    """Every example, with a heading."""
    examples = {
        "RealmConfig": configuration,
        "RealmTokenizer, RealmTokenizerFast": lambda: tokenizers(checkpoints["encoder"]),
        "RealmEmbedder": lambda: embedder(checkpoints["embedder"]),
        "RealmScorer": lambda: scorer(checkpoints["scorer"]),
        "RealmKnowledgeAugEncoder": lambda: knowledge_augmented_encoder(checkpoints["encoder"], checkpoints["scorer"]),
        "RealmReader": lambda: reader(checkpoints["reader"], checkpoints["openqa"]),
        "RealmRetriever": lambda: retriever(checkpoints["openqa"]),
        "RealmForOpenQA": lambda: open_question_answering(checkpoints["openqa"]),
        "AutoConfig, AutoTokenizer, AutoModel": lambda: auto_classes(checkpoints["embedder"]),
    }
    for title, example in examples.items():
        print(f"\n{title}")
        example()


def main() -> None:
    """Runs the examples on small checkpoints, or on the published ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--published", action="store_true", help="use the published checkpoints: many GB to download")
    if parser.parse_args().published:
        run(PUBLISHED)
        return
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        run(write_small_checkpoints(Path(folder)))


if __name__ == "__main__":
    main()
