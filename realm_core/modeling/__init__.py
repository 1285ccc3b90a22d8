"""The REALM model family."""

# mypy: allow-untyped-calls
# transformers and torch leave some methods unannotated.

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoTokenizer

from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.embedder import RealmEmbedder, RealmEmbedderOutput
from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
from realm_core.modeling.open_qa import RealmForOpenQA, RealmForOpenQAOutput
from realm_core.modeling.reader import RealmReader, RealmReaderOutput
from realm_core.modeling.retriever import RealmRetriever
from realm_core.modeling.scorer import RealmScorer, RealmScorerOutput
from realm_core.modeling.tokenization import RealmTokenizer, RealmTokenizerFast

__all__ = [
    "RealmBertModel",
    "RealmConfig",
    "RealmEmbedder",
    "RealmEmbedderOutput",
    "RealmForOpenQA",
    "RealmForOpenQAOutput",
    "RealmKnowledgeAugEncoder",
    "RealmPreTrainedModel",
    "RealmReader",
    "RealmReaderOutput",
    "RealmRetriever",
    "RealmScorer",
    "RealmScorerOutput",
    "RealmTokenizer",
    "RealmTokenizerFast",
]

AutoConfig.register("realm", RealmConfig, exist_ok=True)
AutoModel.register(RealmConfig, RealmBertModel, exist_ok=True)
AutoTokenizer.register(RealmConfig, tokenizer_class=RealmTokenizer, exist_ok=True)
