"""Stores with snapshots."""

import pytest
from support.whole_snapshots import WholeStore

from realm_core.storage.files import Store


@pytest.fixture(params=["local", "s3"])
def whole(request, tmp_path):
    """On a disk, and on an object store."""
    if request.param == "local":
        return WholeStore(Store(str(tmp_path / "store")), tmp_path)
    bucket = request.getfixturevalue("s3_server").make_bucket("snapshots")
    return WholeStore(Store(f"{bucket}/realm"), tmp_path)


@pytest.fixture
def local(tmp_path):
    return WholeStore(Store(str(tmp_path / "store")), tmp_path)
