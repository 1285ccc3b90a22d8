from __future__ import annotations

import json

import pytest
from golden.comparison import json_of
from golden.models import CLASSES

import realm_core

PUBLISHED = json_of("configuration")


@pytest.mark.parametrize("field", PUBLISHED["fields"])
def test_parity_of_defaults(field):
    assert getattr(realm_core.RealmConfig(), field) == PUBLISHED["defaults"][field]


def test_parity_of_fields():
    own = realm_core.RealmConfig.__annotations__
    assert [field for field in own if field in PUBLISHED["fields"]] == PUBLISHED["fields"]


def test_parity_of_to_dict():
    """What both write is equal; the rest of 4.40.2's are defaults of text generation, kept elsewhere in version 5."""
    own = json.loads(json.dumps(realm_core.RealmConfig().to_dict()))
    differing = {name for name in own.keys() & PUBLISHED["defaults"].keys() if own[name] != PUBLISHED["defaults"][name]}
    assert differing == {"transformers_version"}
    assert set(PUBLISHED["fields"]) < set(own)


@pytest.mark.parametrize("kind", CLASSES)
def test_parity_of_a_published_config_json(tmp_path, kind):
    text = json_of("checkpoints")[kind]["config.json"]
    (tmp_path / "config.json").write_text(text)
    config = realm_core.RealmConfig.from_pretrained(tmp_path)
    written = json.loads(text)
    assert {f: getattr(config, f) for f in PUBLISHED["fields"]} == {
        f: written.get(f, PUBLISHED["defaults"][f]) for f in PUBLISHED["fields"]
    }
    assert (config.architectures, config.model_type) == (written["architectures"], "realm")


def test_parity_of_the_default_config_json(tmp_path):
    (tmp_path / "config.json").write_text(PUBLISHED["text"])
    loaded, made = realm_core.RealmConfig.from_pretrained(tmp_path), realm_core.RealmConfig()
    loaded.transformers_version = made.transformers_version
    assert loaded == made
