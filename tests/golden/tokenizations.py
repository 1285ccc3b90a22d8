"""Everything a REALM tokenizer does, as plain values. Run on both tokenizers of transformers 4.40.2 and on ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from golden import texts
from golden.configurations import VOCABULARY

Json = Any


def tokenizations(kind: Any) -> dict[str, Json]:
    """What a tokenizer class gives for all texts, pairs and candidates; one entry per promise."""
    return {section: tokenization(kind, section) for section in SECTIONS}


def tokenization(kind: Any, section: str) -> Json:
    """One entry of `tokenizations`."""
    options, tokenized = SECTIONS[section]
    return tokenized(kind(str(VOCABULARY), **options))


def _texts(tokenizer: Any) -> Json:
    return {
        name: {"tokens": " ".join(tokenizer.tokenize(text)), "ids": tokenizer(text)["input_ids"]}
        for name, text in texts.TEXTS.items()
    }


def _batch(tokenizer: Any) -> Json:
    return dict(tokenizer(list(texts.TEXTS.values()), padding=True))


def _pairs(tokenizer: Any, **options: Any) -> Json:
    return {name: dict(tokenizer(*pair, **options)) for name, pair in texts.PAIRS.items() if _fits(pair, options)}


def _fits(pair: tuple[str, str], options: dict[str, Any]) -> bool:
    """Cutting one text of a pair only is an error where the other alone is too long."""
    other = {"only_first": pair[1], "only_second": pair[0]}.get(options.get("truncation"), "")
    return not other or len(other) < options["max_length"]


def _candidates(tokenizer: Any) -> Json:
    calls = texts.CANDIDATE_CALLS.items()
    return {name: dict(tokenizer.batch_encode_candidates(texts.CANDIDATES, **options)) for name, options in calls}


def _ragged_candidates(tokenizer: Any) -> Json:
    return dict(tokenizer.batch_encode_candidates(texts.CANDIDATES))


def _single_candidates(tokenizer: Any) -> Json:
    """One text for each query: ids [B, L]."""
    first = [candidates[0] for candidates in texts.CANDIDATES]
    second = [candidates[0] for candidates in texts.CANDIDATE_PAIRS]
    return [
        dict(tokenizer.batch_encode_candidates(first, max_length=8)),
        dict(tokenizer.batch_encode_candidates(first, text_pair=second, max_length=12)),
    ]


def _special_tokens(tokenizer: Any) -> Json:
    lists = texts.ID_LISTS.items()
    return {
        "inputs": {name: tokenizer.build_inputs_with_special_tokens(*ids) for name, ids in lists},
        "token types": {name: tokenizer.create_token_type_ids_from_sequences(*ids) for name, ids in lists},
        "finished mask": tokenizer.get_special_tokens_mask(texts.WITH_SPECIAL_TOKENS, already_has_special_tokens=True),
    }


def bare_special_tokens_masks(tokenizer: Any) -> Json:
    """The masks of ids without special tokens, which only the slow tokenizer of transformers 4.40.2 gives."""
    return {name: tokenizer.get_special_tokens_mask(*ids) for name, ids in texts.ID_LISTS.items()}


def _decoded(tokenizer: Any) -> Json:
    return {
        name: {
            "skipping": tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True),
            "whole": tokenizer.decode(tokenizer(text)["input_ids"]),
            "as it is": tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False),
        }
        for name, text in texts.TEXTS.items()
    }


def _facts(tokenizer: Any) -> Json:
    return {
        "vocabulary": tokenizer.get_vocab(),
        "vocab_size": tokenizer.vocab_size,
        "length": len(tokenizer),
        "do_lower_case": tokenizer.do_lower_case,
        "special tokens": sorted(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)),
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "pad, cls, sep, mask, unk": [
            tokenizer.pad_token_id,
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.mask_token_id,
            tokenizer.unk_token_id,
        ],
        "ids of tokens": tokenizer.convert_tokens_to_ids(["the", "[MASK]", "##s", "unheard-of"]),
        "string of tokens": tokenizer.convert_tokens_to_string(["un", "##aff", "##able", "city", "##s", "."]),
        "added special tokens": [tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)],
    }


def _saved_vocabulary(tokenizer: Any) -> Json:
    """The names of the files and whether their bytes are those of vocab.txt."""
    with tempfile.TemporaryDirectory() as folder:
        files = [*tokenizer.save_vocabulary(folder), *tokenizer.save_vocabulary(folder, filename_prefix="old")]
        return [[Path(file).name, Path(file).read_bytes() == VOCABULARY.read_bytes()] for file in files]


SECTIONS: dict[str, tuple[dict[str, Any], Callable[[Any], Json]]] = {
    **{f"texts, {name}": (options, _texts) for name, options in texts.SETTINGS.items()},
    "pairs": ({}, _pairs),
    **{f"pairs, {name}": ({}, partial(_pairs, **options)) for name, options in texts.TRUNCATIONS.items()},
    "batch": ({}, _batch),
    "candidates": ({}, _candidates),
    "candidates without a length": ({}, _ragged_candidates),
    "one candidate each": ({}, _single_candidates),
    "special tokens": ({}, _special_tokens),
    "decoded": ({}, _decoded),
    "facts": ({}, _facts),
    "saved vocabulary": ({}, _saved_vocabulary),
}
"""For each section the options of the tokenizer and what is asked of it."""
