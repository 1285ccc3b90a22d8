from __future__ import annotations

import torch
from support.tiny_encoders import realm_config
from transformers import AutoConfig, AutoModel

import realm_core.modeling  # noqa: F401 - registers the classes
from realm_core.modeling.configuration import RealmConfig
from realm_core.modeling.encoder import RealmBertModel


def test_the_auto_classes_know_realm(tmp_path):
    model = RealmBertModel(realm_config()).eval()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), RealmConfig)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, RealmBertModel)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
