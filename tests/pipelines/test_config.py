from dataclasses import dataclass

import pytest

from pipelines.config import parse_config
from realm_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleConfig:
    """An example."""

    store: str
    """Where."""
    num_hits: int = 5
    """How many."""
    is_loud: bool = False
    """Whether."""
    ask: tuple[str, ...] = ()
    """What."""


def parse(*arguments):
    return parse_config(ExampleConfig, [str(a) for a in arguments], program="realm example")


def yaml(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = yaml(tmp_path, "store: from-file\nnum-hits: 7\nis_loud: true\nask: [one, two words]\n")
    assert parse("--config", file) == ExampleConfig(
        store="from-file", num_hits=7, is_loud=True, ask=("one", "two words")
    )
    assert parse(f"--config={file}", "--num-hits", 9).num_hits == 9
    assert parse("--config", file, "--no-is-loud").is_loud is False


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(UsageError, match=r"the key 'num_hit'.*Did you mean 'num_hits'"):
        parse("--config", yaml(tmp_path, "store: s\nnum_hit: 3\n"))


@pytest.mark.parametrize(("text", "message"), [("- a\n- b\n", "a list"), ("a: [", "YAML|expected"), ("", "NoneType")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        parse("--config", yaml(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.yaml.*No such file"):
        parse("--config", tmp_path / "gone.yaml")


def test_a_config_flag_without_a_name_is_refused():
    with pytest.raises(UsageError, match="no file name"):
        parse("--store", "s", "--config")
