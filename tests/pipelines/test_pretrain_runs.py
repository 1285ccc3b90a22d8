"""Which run a command means, by its options, its reader and the live snapshot."""

from pathlib import Path

import pytest
from support.snapshots import SyntheticStore
from support.tiny import write_bert

from pipelines.configs.pretrain import PretrainConfig
from pipelines.pretrain import _open_run, pretrain, pretrain_plan
from realm_core.errors import RealmError, StoreError


class Runs:
    """A store with snapshots, and the run that a command with some options opens."""

    def __init__(self, folder, bert):
        self.synthetic = SyntheticStore(folder)
        self.first = self.synthetic.publish(seed=0, step=0)
        self.store, self.bert = self.synthetic.store, str(bert)

    def open(self, **options):
        return _open_run(PretrainConfig(store=self.store.url, **{"encoder": self.bert, **options}), self.store)

    def begin(self, **options):
        run, start = self.open(**options)
        run.write_document("start", {"snapshot": start.snapshot_id})
        return run

    def finish(self, run, snapshot):
        run.write_document("result", {"live_snapshot": snapshot.snapshot_id})


@pytest.fixture
def runs(tmp_path, tiny_bert):
    return Runs(tmp_path, tiny_bert)


def test_an_unfinished_run_goes_on_from_where_it_began_though_another_snapshot_is_live(runs):
    begun = runs.begin()
    runs.synthetic.publish(seed=1, step=5)
    run, start = runs.open()
    assert (run.name, start.snapshot_id) == (begun.name, runs.first.snapshot_id)


def test_a_finished_run_is_found_again_while_its_snapshot_is_live(runs):
    begun = runs.begin()
    runs.finish(begun, runs.synthetic.publish(seed=1, step=5))
    run, _ = runs.open()
    assert run.name == begun.name


def test_from_another_live_snapshot_it_is_another_run(runs):
    begun = runs.begin()
    runs.finish(begun, runs.synthetic.publish(seed=1, step=5))
    newest = runs.synthetic.publish(seed=2, step=0)
    run, start = runs.open()
    assert (run.name, start.snapshot_id) == (f"{begun.name}-2", newest.snapshot_id)


def test_a_finished_run_whose_start_is_live_again_is_not_repeated_and_says_so(runs, capsys):
    begun = runs.begin()
    last = runs.synthetic.publish(seed=1, step=5)
    runs.finish(begun, last)
    runs.synthetic.publish(seed=0, step=0)
    run, _ = runs.open()
    assert run.name == begun.name
    assert f"{last.snapshot_id} is not live" in capsys.readouterr().err


def test_a_reader_of_other_weights_makes_another_run(runs, tmp_path):
    begun = runs.begin()
    write_bert(tmp_path / "other", seed=1)
    run, _ = runs.open(encoder=str(tmp_path / "other"))
    assert run.name != begun.name


def test_a_command_that_is_refused_has_begun_nothing(runs):
    config = PretrainConfig(store=runs.store.url, encoder=runs.bert)  # of another tokenizer than the corpus
    with pytest.raises(RealmError):
        pretrain(config)
    assert runs.store.list("runs") == []


def test_a_store_that_is_not_there_is_not_made(tmp_path, tiny_bert):
    with pytest.raises(StoreError, match="no corpus"):
        pretrain(PretrainConfig(store=str(tmp_path / "nowhere"), encoder=str(tiny_bert)))
    assert not (tmp_path / "nowhere").exists()


def test_ranks_get_a_path_that_holds_in_any_folder(runs, monkeypatch):
    bert = Path(runs.bert)
    monkeypatch.chdir(bert.parent)
    config = PretrainConfig(store=runs.store.url, encoder=bert.name)
    run, start = _open_run(config, runs.store)
    assert pretrain_plan(config, runs.store, run, start).reader_checkpoint == str(bert.absolute())
