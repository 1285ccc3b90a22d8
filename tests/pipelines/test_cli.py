import re
import subprocess
import sys

import pytest

from pipelines.cli import COMMANDS, main, usage
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock

HOLD = """
import sys, time
from realm_core.storage.files import Store
from realm_core.storage.lock import writer_lock
with writer_lock(Store(sys.argv[1]), "realm pretrain"):
    print("held", flush=True)
    time.sleep(60)
"""
HELP = """
import sys
from contextlib import suppress
from pipelines.cli import main
with suppress(SystemExit):
    main([sys.argv[1], "--help"])
heavy = ("torch", "ray", "transformers", "faiss", "scann", "openvino", "fastapi", "matplotlib")
sys.stderr.write(str([name for name in heavy if name in sys.modules]))
"""
"""Which of the modules that take seconds to import a command's help has imported."""


def run(*arguments):
    """Exit code, standard output, standard error of the command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def fails_with_one_line(capsys, code, *arguments):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert exit_info.value.code == code
    assert err.startswith("realm: ")
    assert err.count("\n") == 1
    return err


def test_help_lists_every_command_and_ends_with_0(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert out == usage()
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_has_help_with_defaults(name, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert f"realm {name}" in out
    assert "(default:" in out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_of_a_command_loads_nothing_heavy(name):
    done = subprocess.run([sys.executable, "-c", HELP, name], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]"
    assert f"realm {name}" in done.stdout


def test_a_mistyped_command_is_named_with_the_nearest_one(capsys):
    assert "Did you mean `realm pretrain`?" in fails_with_one_line(capsys, 2, "pretrian")


def test_a_missing_option_ends_with_2():
    code, _, err = run("embed")
    assert code == 2
    assert "--store" in err


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1:1"])
def test_an_address_of_no_cluster_is_named(address):
    code, _, err = run("search", "the tower", "--store", "store", "--address", address)
    assert code == 1
    assert f"--address {address}: " in err
    assert "expected a running Ray cluster" in err


def test_wrong_values_are_all_named_at_once(capsys):
    err = fails_with_one_line(
        capsys,
        2,
        "ingest",
        "--store",
        "s",
        "--source",
        "x",
        "--encoder",
        "e",
        "--max-block-tokens",
        5,
        "--num-parts",
        0,
    )
    assert "--max-block-tokens 5, --num-parts 0" in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"", "an empty file"),
        (b"just words\n", "neither|text"),
        (b"<html><body>no dump</body></html>", "HTML"),
        (b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">\n<page><title>A</ti', "truncated|cut|end"),
    ],
)
def test_a_source_that_is_no_dump_leaves_nothing_behind(tmp_path, tiny_bert, capsys, content, expected):
    source = tmp_path / "dump.xml"
    if content is not None:
        source.write_bytes(content)
    arguments = ("ingest", "--store", tmp_path / "store", "--source", source, "--encoder", tiny_bert)
    err = fails_with_one_line(capsys, 1, *arguments)
    assert "dump.xml" in err
    assert re.search(expected, err)
    assert not (tmp_path / "store" / "corpora").exists()
    assert not (tmp_path / "store" / "parts").exists()


def test_an_encoder_directory_without_weights_is_named(tmp_path, tiny_corpus, tiny_bert, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    arguments = ("ingest", "--store", tmp_path / "store", "--source", tiny_corpus, "--encoder", broken)
    assert "broken" in fails_with_one_line(capsys, 1, *arguments)


def test_a_store_that_is_being_written_is_refused(tmp_path, tiny_corpus, tiny_bert, capsys):
    store = Store(str(tmp_path / "store"))
    store.write_bytes("x", b"")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, store.url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        err = fails_with_one_line(
            capsys, 1, "ingest", "--store", store.url, "--source", tiny_corpus, "--encoder", tiny_bert
        )
        assert f"`realm pretrain` (process {holder.pid}" in err
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with writer_lock(store, "realm ingest"):
        pass


def test_an_empty_store_says_what_to_run(tmp_path, capsys):
    err = fails_with_one_line(capsys, 1, "search", "words", "--store", tmp_path)
    assert "realm ingest" in err


def test_an_interrupt_ends_with_130(tmp_path, tiny_corpus, tiny_bert):
    code = (
        "import threading, os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells start background jobs without it
        "threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "import pipelines.cli as cli\n"
        "cli._run = lambda arguments: time.sleep(30)\n"
        "cli.main(['embed'])\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 130
    assert "interrupted" in process.stderr
