"""The commands as a user runs them, on a tiny corpus, one after the other on one store."""

import json

import pytest

from pipelines.cli import main
from pipelines.pretrain import PretrainConfig, run_pretrain
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.block_store import load_corpus
from realm_core.storage.files import Store
from realm_core.storage.snapshots import list_snapshots, load_snapshot
from realm_core.training.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]


def realm(*arguments):
    """Runs a command; a command that ends well returns."""
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(ray_cluster, tmp_path_factory, tiny_corpus, tiny_bert):
    """A store after ingest, warm-up, embed and index."""
    url = tmp_path_factory.mktemp("loop") / "store"
    realm("ingest", "--store", url, "--source", tiny_corpus, "--encoder", tiny_bert, "--max-block-tokens", 128)
    realm("warmup", "--store", url, "--encoder", tiny_bert, "--num-steps", 4, "--batch-size", 8,
          "--checkpoint-interval-steps", 2, "--num-warmup-steps", 1)  # fmt: skip
    realm("embed", "--store", url)
    realm("index", "--store", url)
    return Store(str(url))


def pretrain_config(store, tiny_bert, **changes):
    options = {
        "store": store.url, "encoder": str(tiny_bert), "num_steps": 6, "refresh_interval_steps": 2, "batch_size": 2,
        "num_candidates": 3, "query_length_tokens": 64, "num_warmup_steps": 1, "precision": "fp32",
    }  # fmt: skip
    return PretrainConfig(**{**options, **changes})


def test_counts_add_up(store):
    counts = load_corpus(store).counts
    assert counts["pages"] == counts["documents"] == 24
    assert load_snapshot(store).num_rows == load_corpus(store).num_blocks


def test_search_and_ask_print_evidence(store, capsys):
    realm("search", "Who built the bridge of Redcliff?", "--store", store.url, "--num-hits", 2)
    out = capsys.readouterr().out
    assert "relevance" in out
    assert "block" in out
    realm("ask", "Who built the tower?", "When was the school built?", "--store", store.url, "--num-evidence", 1)
    out = capsys.readouterr().out
    assert "When was the school built?" in out
    assert out.count("relevance") == 2


def test_a_second_run_of_each_stage_finds_what_is_done(store, tiny_corpus, tiny_bert, capsys):
    realm("ingest", "--store", store.url, "--source", tiny_corpus, "--encoder", tiny_bert, "--max-block-tokens", 128)
    assert "was there already" in capsys.readouterr().out
    realm("embed", "--store", store.url)
    assert "parts made   │ 0" in capsys.readouterr().out


def test_pretraining_refreshes_the_index_and_a_finished_run_is_found_again(store, tiny_bert):
    report = run_pretrain(pretrain_config(store, tiny_bert))
    assert report.num_steps == 6
    assert report.num_refreshes_failed == 0
    assert report.num_swaps == report.num_refreshes_live >= 1
    assert report.num_failed_searches == 0
    assert report.live_staleness_steps == 0
    assert load_snapshot(store).encoder_step == 6
    assert len(list_snapshots(store)) >= 2
    steps = RunFolder(store, report.run_name).read_metrics()
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    for step in steps:
        assert step["loss"] > 0
        assert 0 <= step["staleness_steps"] < step["step"]
        assert step["staleness_seconds"] > 0
        assert step["snapshot_id"].startswith("step-")
    live = load_snapshot(store)
    embedder = load_encoder(store.local_folder(f"encoders/{live.encoder_digest}")).embedder
    assert embedder.config.retriever_proj_size == live.dimension
    again = run_pretrain(pretrain_config(store, tiny_bert))
    assert again.was_done
    assert json.dumps(again.recall) == json.dumps(report.recall)


def test_more_candidates_than_blocks_are_refused_at_the_start(store, tiny_bert, capsys):
    with pytest.raises(SystemExit) as exit_info:
        realm("pretrain", "--store", store.url, "--encoder", tiny_bert, "--num-candidates", 500)
    assert exit_info.value.code == 2
    assert "--num-candidates 500 over" in capsys.readouterr().err
