"""The tokenizer of the REALM models: uncased WordPiece, as BERT's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BatchEncoding, BertTokenizer

from realm_core.errors import EncoderError


class RealmTokenizer(BertTokenizer):
    """BERT's tokenizer, and a batch form for queries with candidates.

    Departs from transformers 5 in two points. `vocab_file=` is read (there it is ignored and every word becomes
    `[UNK]`). Truncation and padding that a `tokenizer.json` has switched on are switched off.
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
                expected="the path of a vocab.txt, or a dict of tokens and ids",
                action="Pass vocab=…, or use RealmTokenizer.from_pretrained(directory).",
            )
        super().__init__(vocab=vocab if isinstance(vocab, dict) else read_vocabulary(Path(vocab)), **kwargs)
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()

    def batch_encode_candidates(
        self,
        text: Sequence[Sequence[str]],
        *,
        text_pair: Sequence[Sequence[str]] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ANN401 - arguments of __call__
    ) -> BatchEncoding:
        """Token ids, attention mask and token types of B x N texts, each [B, N, max_length].

        Args:
            text: for each of B queries its N candidates.
            text_pair: second texts of the same shape, for `[CLS] text [SEP] text_pair [SEP]`.
            return_tensors: "pt" or "np"; lists by default.
            kwargs: arguments of `__call__`, above all `max_length` (to which everything is padded) and `truncation`
                (off by default, as in transformers 4.40.2: longer texts then fail to form a tensor).
        """
        kwargs["padding"] = "max_length"
        pairs: Sequence[Sequence[str] | None] = [None] * len(text) if text_pair is None else text_pair
        rows = [
            self(list(candidates), None if pair is None else list(pair), **kwargs)
            for candidates, pair in zip(text, pairs, strict=True)
        ]
        names = list(rows[0].keys()) if rows else []
        return BatchEncoding({name: [row[name] for row in rows] for name in names}, tensor_type=return_tensors)


RealmTokenizerFast = RealmTokenizer
"""The name users of transformers 4 know; as there for BERT in version 5, there is one tokenizer."""


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
