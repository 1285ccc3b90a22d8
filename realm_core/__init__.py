"""Models, text, storage, indexes and training maths of REALM; never imports Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realm_core.engines.torch_engine import TorchEngine
    from realm_core.modeling.checkpoints import LoadedEncoder, load_encoder, save_encoder
    from realm_core.modeling.configuration import RealmConfig
    from realm_core.modeling.embedder import RealmEmbedder
    from realm_core.modeling.encoder import RealmBertModel, RealmPreTrainedModel
    from realm_core.modeling.knowledge_aug_encoder import RealmKnowledgeAugEncoder
    from realm_core.modeling.open_qa import RealmForOpenQA
    from realm_core.modeling.reader import RealmReader
    from realm_core.modeling.retriever import RealmRetriever
    from realm_core.modeling.scorer import RealmScorer
    from realm_core.modeling.tokenization import RealmTokenizer, RealmTokenizerFast

_MODULES = {
    "LoadedEncoder": "realm_core.modeling.checkpoints",
    "RealmBertModel": "realm_core.modeling.encoder",
    "RealmConfig": "realm_core.modeling.configuration",
    "RealmEmbedder": "realm_core.modeling.embedder",
    "RealmForOpenQA": "realm_core.modeling.open_qa",
    "RealmKnowledgeAugEncoder": "realm_core.modeling.knowledge_aug_encoder",
    "RealmPreTrainedModel": "realm_core.modeling.encoder",
    "RealmReader": "realm_core.modeling.reader",
    "RealmRetriever": "realm_core.modeling.retriever",
    "RealmScorer": "realm_core.modeling.scorer",
    "RealmTokenizer": "realm_core.modeling.tokenization",
    "RealmTokenizerFast": "realm_core.modeling.tokenization",
    "TorchEngine": "realm_core.engines.torch_engine",
    "load_encoder": "realm_core.modeling.checkpoints",
    "save_encoder": "realm_core.modeling.checkpoints",
}

__all__ = [
    "LoadedEncoder",
    "RealmBertModel",
    "RealmConfig",
    "RealmEmbedder",
    "RealmForOpenQA",
    "RealmKnowledgeAugEncoder",
    "RealmPreTrainedModel",
    "RealmReader",
    "RealmRetriever",
    "RealmScorer",
    "RealmTokenizer",
    "RealmTokenizerFast",
    "TorchEngine",
    "load_encoder",
    "save_encoder",
]


def __getattr__(name: str) -> object:
    """Imports a public name on first use (PEP 562), so that storage and indexes load without PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
