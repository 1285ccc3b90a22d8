from __future__ import annotations

import json

import pytest

from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.index.description import DESCRIPTION_NAME, SearcherDescription
from realm_core.index.specs import ResolvedSpec

DESCRIPTION = SearcherDescription(spec=ResolvedSpec(kind="flat"), num_rows=7, dimension=128)


def test_what_is_written_is_read(tmp_path):
    DESCRIPTION.write(tmp_path / "new" / "folder")
    assert SearcherDescription.read(tmp_path / "new" / "folder") == DESCRIPTION


def test_a_person_can_read_it(tmp_path):
    DESCRIPTION.write(tmp_path)
    values = json.loads((tmp_path / DESCRIPTION_NAME).read_text())
    assert (values["kind"], values["num_rows"], values["dimension"]) == ("flat", 7, 128)


def test_a_missing_description_is_named(tmp_path):
    with pytest.raises(ArtifactMissingError, match=DESCRIPTION_NAME):
        SearcherDescription.read(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"spec": {"kind": "flat"}, "num_rows": "7", "dimension": 1}']
)
def test_a_damaged_description_is_refused(tmp_path, content):
    (tmp_path / DESCRIPTION_NAME).write_text(content)
    with pytest.raises(ArtifactCorruptError, match=DESCRIPTION_NAME):
        SearcherDescription.read(tmp_path)
