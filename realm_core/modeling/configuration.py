"""The configuration of the REALM model family."""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

_DIMENSIONS = (
    "vocab_size",
    "hidden_size",
    "retriever_proj_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_candidates",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "span_hidden_size",
    "max_span_width",
    "reader_beam_size",
    "reader_seq_len",
    "searcher_beam_size",
)


class RealmConfig(PreTrainedConfig):
    """Every field and default of transformers 4.40.2, so that published `config.json` files load unchanged.

    The defaults describe `google/realm-cc-news-pretrained-*`: BERT-base with the tanh form of GELU.
    """

    model_type = "realm"

    vocab_size: int = 30522
    hidden_size: int = 768
    retriever_proj_size: int = 128
    """D: the width of an embedding."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_candidates: int = 8
    """N: candidates of one query, the null document included."""
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    span_hidden_size: int = 256
    max_span_width: int = 10
    """Widest answer of the reader, in tokens."""
    reader_layer_norm_eps: float = 1e-3
    reader_beam_size: int = 5
    """Evidence blocks the reader scores."""
    reader_seq_len: int = 320
    """Tokens of question and evidence together: 288 + 32."""
    num_block_records: int = 13353718
    searcher_beam_size: int = 5000
    """Blocks searched per question in training; `reader_beam_size` in evaluation."""
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    tie_word_embeddings: bool = True
    """The vocabulary projection of the knowledge-augmented encoder is the word embedding."""

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        problems = [f"{name} is {getattr(self, name)}" for name in _DIMENSIONS if getattr(self, name) < 1]
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            problems.append(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}, no probability")
        if isinstance(self.hidden_act, str) and self.hidden_act not in ACT2FN:
            problems.append(f"hidden_act is {self.hidden_act!r}, which transformers does not know")
        if getattr(self, "is_decoder", False) or getattr(self, "add_cross_attention", False):
            problems.append("is_decoder or add_cross_attention is set, only encoders are supported")
        if getattr(self, "position_embedding_type", "absolute") != "absolute":
            problems.append(
                f"position_embedding_type is {self.position_embedding_type!r}, only 'absolute' is supported"
            )
        if problems:
            raise ValueError("RealmConfig: " + "; ".join(problems))
