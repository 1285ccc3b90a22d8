"""The tokenizer of the REALM models: uncased WordPiece, as BERT's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BatchEncoding, BertTokenizer

from realm_core.errors import EncoderError

CANDIDATE_FIELDS = ("input_ids", "attention_mask", "token_type_ids")
"""What `batch_encode_candidates` gives, in the order of 4.40.2."""


class RealmTokenizer(BertTokenizer):
    """BERT's tokenizer, and a batch form for queries with candidates.

    Departs from transformers 5 in three points. `vocab_file=` is read (there it is ignored and every word becomes
    `[UNK]`). Truncation and padding that a `tokenizer.json` has switched on are switched off. Decoding cleans up spaces
    as version 4 did ("it's", not "it ' s").
    """

    def __init__(
        self,
        vocab: str | Path | dict[str, int] | None = None,
        *,
        vocab_file: str | Path | None = None,
        **kwargs: Any,  # noqa: ANN401 - passed on
    ) -> None:
        """Takes a `vocab.txt`, by either name, or a vocabulary."""
        vocab = vocab_file if vocab is None else vocab
        if vocab is None:
            raise EncoderError(
                where="RealmTokenizer",
                found="no vocabulary",
                expected="a vocab.txt, a dict of tokens and ids, or a model with tokenizer.json or vocab.txt",
                action="Pass vocab=…, or check the spelling of the directory or hub id, and the network.",
            )
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        super().__init__(vocab=vocab if isinstance(vocab, dict) else read_vocabulary(Path(vocab)), **kwargs)
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()

    def batch_encode_candidates(
        self,
        text: Sequence[str] | Sequence[Sequence[str]],
        *,
        text_pair: Sequence[str] | Sequence[Sequence[str]] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ANN401 - arguments of __call__
    ) -> BatchEncoding:
        """Token ids, attention mask and token types of B x N texts, each [B, N, max_length].

        Args:
            text: for each of B queries its N candidates; or N texts, whose results are [N, max_length].
            text_pair: second texts of the same shape, for `[CLS] text [SEP] text_pair [SEP]`.
            return_tensors: "pt" or "np"; lists by default.
            kwargs: arguments of `__call__`, above all `max_length` (to which everything is padded) and `truncation`
                (off by default, as in transformers 4.40.2: longer texts then fail to form a tensor).
        """
        kwargs["padding"] = "max_length"
        pairs: Sequence[str | Sequence[str] | None] = [None] * len(text) if text_pair is None else text_pair
        rows = [
            self(_texts(candidates), None if pair is None else _texts(pair), **kwargs)
            for candidates, pair in zip(text, pairs, strict=True)
        ]
        names = [name for name in CANDIDATE_FIELDS if rows and name in rows[0]]
        return BatchEncoding({name: [row[name] for row in rows] for name in names}, tensor_type=return_tensors)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`."""
        first = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return first if token_ids_1 is None else [*first, *token_ids_1, self.sep_token_id]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens and 0 at others, of ids that have them already or of those about to be built."""
        if already_has_special_tokens:
            mask: list[int] = super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
            return mask
        first = [1, *(0 for _ in token_ids_0), 1]
        return first if token_ids_1 is None else [*first, *(0 for _ in token_ids_1), 1]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 at the first sequence with its special tokens, 1 at the second with its [SEP]."""
        first = [0] * (len(token_ids_0) + 2)
        return first if token_ids_1 is None else [*first, *(1 for _ in token_ids_1), 1]

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str]:
        """Writes `vocab.txt`, one token a line in the order of ids; returns its path."""
        name = f"{filename_prefix}-vocab.txt" if filename_prefix else "vocab.txt"
        tokens = sorted(self.backend_tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        file = Path(save_directory) / name
        file.write_text("".join(f"{token}\n" for token, _ in tokens), encoding="utf-8", newline="\n")
        return (str(file),)


RealmTokenizerFast = RealmTokenizer
"""The name users of transformers 4 know; as there for BERT in version 5, there is one tokenizer."""


def _texts(texts: str | Sequence[str]) -> str | list[str]:
    return texts if isinstance(texts, str) else list(texts)


def read_vocabulary(file: Path) -> dict[str, int]:
    """Tokens of a `vocab.txt`, one a line; the id is the line number.

    Raises:
        EncoderError: it cannot be read or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_vocabulary(file, f"a file that cannot be read ({error})") from error
    tokens = lines[:-1] if lines[-1] == "" else lines
    if not tokens:
        raise _bad_vocabulary(file, "an empty file")
    return {token.removesuffix("\r"): index for index, token in enumerate(tokens)}


def _bad_vocabulary(file: Path, found: str) -> EncoderError:
    return EncoderError(
        where=str(file),
        found=found,
        expected="a vocab.txt in UTF-8 with one token a line",
        action="Copy the file of the checkpoint again.",
    )
