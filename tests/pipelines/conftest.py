"""A tiny model in the published form, and a store that it was converted into."""

from __future__ import annotations

import pytest
from support.conversions import RECORDS, convert_config
from support.published import write_open_qa

from realm_core.storage.files import Store


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a model with reader, records and block embeddings."""
    return write_open_qa(tmp_path_factory.mktemp("published") / "model", RECORDS)


@pytest.fixture(scope="module")
def converted(ray_cluster, tmp_path_factory, model):
    """The store after one conversion, and its report."""
    from pipelines.convert import run_convert

    folder = tmp_path_factory.mktemp("converted") / "store"
    return Store(str(folder)), run_convert(convert_config(folder, model))
