"""Open-domain question answering: embed the question, search, read.

Shapes: B questions, L tokens, D projection, R block embeddings, N blocks retrieved, K blocks read, W answers.
"""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding
from transformers.utils.generic import ModelOutput

from realm_core.errors import UsageError
from realm_core.index.exact import top_rows
from realm_core.index.searcher import MISSING_ROW, SearchHits
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.encoder import RealmPreTrainedModel
from realm_core.modeling.reader import RealmReader, RealmReaderOutput
from realm_core.modeling.retriever import Answers, RealmRetriever
from realm_core.modeling.weights import HUB_OPTIONS, read_tensor, resolve_directory
from realm_core.retrieval.snapshot_search import SearchResult

BLOCK_EMBEDDINGS = "block_emb"


class BlockSearcher(Protocol):
    """Anything that finds blocks: an index (exact, FAISS, ScaNN), an opened snapshot, a client of the service."""

    def search(self, queries_BD: np.ndarray, num_hits: int) -> SearchHits | SearchResult:
        """The most relevant blocks of each query."""
        ...


@dataclass
class RealmForOpenQAOutput(ModelOutput):
    """What RealmForOpenQA gives."""

    reader_output: RealmReaderOutput | None = None
    predicted_answer_ids: Tensor | list[Tensor] | None = None
    """Token ids of the answer; for a batch of questions a list of B."""


class RealmForOpenQA(RealmPreTrainedModel):
    """Answers questions from evidence it finds (Guu et al. 2020, section 4; Lee et al. 2019).

    Blocks are found by the `searcher` that is given, or else by comparing with every row of `block_emb`. In training,
    `block_emb` is needed too: the gradient reaches the question's embedder through the relevance of each block.
    """

    _keys_to_ignore_on_load_unexpected = [r"position_ids$", r"token_type_ids$", r"^block_emb$"]  # noqa: RUF012 - as transformers has it
    _unused_parameters = ("embedder.cls.predictions.", "reader.cls.", "reader.realm.pooler.")

    block_emb: Tensor | None
    """Embeddings [R, D] by block id; never written by `save_pretrained` unless asked for."""

    def __init__(
        self, config: RealmConfig, retriever: RealmRetriever | None = None, searcher: BlockSearcher | None = None
    ) -> None:
        super().__init__(config)
        self.embedder = RealmEmbedder(config)
        self.reader = RealmReader(config)
        self.register_buffer(BLOCK_EMBEDDINGS, None, persistent=False)
        self.retriever = retriever
        self.searcher = searcher
        self.post_init()
        self.freeze_unused_parameters()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - a model, or a pair with loading info
        """As in transformers; `retriever=` and `searcher=` are passed to the constructor.

        Block embeddings inside the checkpoint are memory-mapped; with a searcher, which needs none, they are left out.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        where = kwargs.get("pretrained_model_name_or_path", args[0] if args else None)
        if model.searcher is None and where is not None:
            hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            model.block_emb = read_tensor(resolve_directory(where, **hub_options), BLOCK_EMBEDDINGS)
        return loaded

    def save_pretrained(self, *args: Any, save_block_emb: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        """As in transformers; `save_block_emb=True` writes the block embeddings into the checkpoint as well."""
        if save_block_emb:
            if self.block_emb is None:
                raise ValueError("save_block_emb=True, but this model has no block embeddings")
            kwargs["state_dict"] = {**(kwargs.get("state_dict") or self.state_dict()), BLOCK_EMBEDDINGS: self.block_emb}
        super().save_pretrained(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Takes block embeddings that a state dict holds, as those of 4.40.2 do."""
        if f"{prefix}{BLOCK_EMBEDDINGS}" in state_dict:
            self.block_emb = state_dict.pop(f"{prefix}{BLOCK_EMBEDDINGS}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def searcher_beam_size(self) -> int:
        """Blocks retrieved per question: many in training, those that are read otherwise."""
        return self.config.searcher_beam_size if self.training else self.config.reader_beam_size

    def block_embedding_to(self, device: str | torch.device) -> None:
        """Moves the block embeddings to a device, on which they are then searched."""
        if self.block_emb is not None:
            self.block_emb = self.block_emb.to(device)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        answer_ids: Answers | Sequence[Answers] | None = None,
        return_dict: bool | None = None,
    ) -> RealmForOpenQAOutput | tuple[RealmReaderOutput, Tensor | list[Tensor]]:
        """The most likely answer of each question, and with `answer_ids` the losses.

        For one question results are shaped as in 4.40.2; for a batch those of the reader have a leading axis B.

        Args:
            input_ids: questions [B, L], with special tokens.
            attention_mask: [B, L].
            token_type_ids: [B, L], all 0.
            answer_ids: for each of B questions the token ids of each of its answers; for one question also, as in
                4.40.2, its answers alone.
            return_dict: False for a tuple.

        Raises:
            ValueError: no retriever, or nothing to search.
            QueryError, UsageError: from searcher and retriever.
        """
        if input_ids is None:
            raise ValueError("pass input_ids: the retriever reads the question")
        if self.retriever is None:
            raise ValueError("this RealmForOpenQA has no retriever: pass retriever=RealmRetriever.from_pretrained(…)")
        question_BD = self.embedder(input_ids, attention_mask, token_type_ids, return_dict=True).projected_score
        block_ids_BN, relevance_BN = self._search(question_BD)
        is_batch = len(input_ids) > 1
        if answer_ids is not None:
            answer_ids = answers_of_questions(answer_ids, len(input_ids))
            answer_ids = answer_ids if is_batch else answer_ids[0]
        block_ids = block_ids_BN if is_batch else block_ids_BN[0]
        *answers, inputs = self.retriever(
            block_ids.numpy(), _bare(input_ids, attention_mask), answer_ids, max_length=self.config.reader_seq_len
        )
        output = self._read(inputs, relevance_BN if is_batch else relevance_BN[0], answers)
        predicted = _answer_ids(inputs, output, block_ids.shape)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return RealmForOpenQAOutput(output, predicted) if as_dict else (output, predicted)

    def _search(self, question_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Block ids [B, N] on the CPU, and their relevances [B, N] on the reader's device."""
        num_hits = self.searcher_beam_size
        if self.block_emb is not None:
            num_hits = min(num_hits, len(self.block_emb))
        block_ids_BN, relevances_BN = self._hits(question_BD.detach(), num_hits)
        if self.block_emb is None:
            return block_ids_BN, relevances_BN.to(self.reader.device)
        blocks_BND = self.block_emb[block_ids_BN.to(self.block_emb.device)].to(self.reader.device, question_BD.dtype)
        return block_ids_BN, torch.einsum("bd,bnd->bn", question_BD.to(self.reader.device), blocks_BND)

    def _hits(self, question_BD: Tensor, num_hits: int) -> tuple[Tensor, Tensor]:
        if self.searcher is not None:
            if self.training and self.block_emb is None:
                raise ValueError(
                    "training needs block_emb beside the searcher: the gradient of the question's embedder goes "
                    "through the embeddings of the blocks that were found"
                )
            hits = self.searcher.search(question_BD.float().cpu().numpy(), num_hits)
            ids_BN = hits.block_ids_BK if isinstance(hits, SearchResult) else hits.rows_BK
            found = (ids_BN != MISSING_ROW).all(0)  # a corpus with fewer blocks than the beam ends every row alike
            return torch.from_numpy(ids_BN[:, found]), torch.from_numpy(hits.relevances_BK[:, found])
        if self.block_emb is None:
            raise ValueError(
                "nothing to search: pass searcher=, set block_emb, or load a checkpoint with block embeddings inside"
            )
        with torch.no_grad():
            relevances_BN, rows_BN = top_rows(
                self.block_emb, question_BD.to(self.block_emb.device, self.block_emb.dtype), num_hits
            )
        return rows_BN.cpu(), relevances_BN.float()

    def _read(self, inputs: BatchEncoding, relevance: Tensor, answers: list[Any]) -> RealmReaderOutput:
        device, leading = self.reader.device, relevance.shape
        inputs = inputs.to(device)
        is_evidence = ~inputs["special_tokens_mask"].bool() & inputs["token_type_ids"].bool()
        num_read = min(self.config.reader_beam_size, leading[-1])
        read = {
            name: inputs[name].view(*leading, -1)[..., :num_read, :].flatten(0, -2)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        if answers[0] is None:
            has_answers = starts = ends = None
        else:
            has_answers = torch.tensor(answers[0], dtype=torch.bool, device=device)
            starts, ends = (_positions(values, leading, device) for values in answers[1:])
        output: RealmReaderOutput = self.reader(
            **read,
            relevance_score=relevance,
            block_mask=is_evidence.view(*leading, -1),
            has_answers=has_answers,
            start_positions=starts,
            end_positions=ends,
            return_dict=True,
        )
        return output


def answers_of_questions(answer_ids: Answers | Sequence[Answers], num_questions: int) -> list[Answers]:
    """A list of answers for each question; those of a single question may come without the list around them.

    Raises:
        UsageError: not as many lists of answers as questions.
    """
    depth = _depth(answer_ids)
    if depth <= 2 and num_questions == 1:
        return [cast("Answers", answer_ids)]
    if len(answer_ids) == num_questions and not any(len(answers) for answers in answer_ids):
        return list(cast("Sequence[Answers]", answer_ids))  # no question has an answer
    if depth <= 2 or len(answer_ids) != num_questions:
        raise UsageError(
            where="answer_ids",
            found="the answers of one question" if depth <= 2 else f"answers of {len(answer_ids)} questions",
            expected=f"a list of {num_questions} lists of answers, one for each question",
            action="Pass [[ids of an answer, …], …]: for each question a list of its tokenized answers.",
        )
    return list(cast("Sequence[Answers]", answer_ids))


def _depth(values: Any) -> int:  # noqa: ANN401 - nested lists of ids
    return 1 + max((_depth(value) for value in values), default=0) if isinstance(values, list | tuple) else 0


def _bare(input_ids: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """Each question's ids without its padding, which a tokenizer whose [PAD] is no special token would keep."""
    if attention_mask is None:
        return list(input_ids)
    return [ids[is_token.bool()] for ids, is_token in zip(input_ids, attention_mask, strict=True)]


def _positions(positions: list[Any], leading: tuple[int, ...], device: torch.device) -> Tensor:
    """Answer positions [..., N, W]; questions with fewer than others are filled up with -1."""
    rows = positions if len(leading) == 1 else [row for of_question in positions for row in of_question]
    most = max((len(row) for row in rows), default=0)
    filled = [row + [-1] * (most - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=device).view(*leading, most)


def _answer_ids(inputs: BatchEncoding, output: RealmReaderOutput, leading: tuple[int, ...]) -> Tensor | list[Tensor]:
    """The predicted spans' token ids."""
    assert output.block_idx is not None and output.start_pos is not None and output.end_pos is not None
    ids: Tensor = inputs["input_ids"].view(*leading, -1)
    if len(leading) == 1:
        return ids[output.block_idx][output.start_pos : output.end_pos + 1]
    spans = zip(ids, output.block_idx, output.start_pos, output.end_pos, strict=True)
    return [ids_NL[block][start : end + 1] for ids_NL, block, start, end in spans]
