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


def test_models_and_engines_need_no_ray_and_no_index_library():
    code = """
import sys
for name in ("ray", "faiss", "scann", "openvino", "nncf"):
    sys.modules[name] = None  # as if it were not installed
import realm_core
import realm_core.engines.torch_engine
print(len([getattr(realm_core, name) for name in realm_core.__all__]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == len(realm_core.__all__)
