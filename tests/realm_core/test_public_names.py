from __future__ import annotations

import subprocess
import sys

import pytest

import realm_core


def test_every_public_name_can_be_had():
    assert all(getattr(realm_core, name) is not None for name in realm_core.__all__)
    assert set(realm_core.__all__) <= set(dir(realm_core))
    with pytest.raises(AttributeError, match="no attribute 'RealmNothing'"):
        realm_core.RealmNothing  # noqa: B018


def test_the_package_itself_imports_neither_torch_nor_transformers():
    code = "import sys, realm_core.index, realm_core.records; print({'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
