"""The best checkpoint of a run, as models that `from_pretrained` loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import write_bert
from support.whole_snapshots import flip_byte

from realm_core import RealmEmbedder, RealmKnowledgeAugEncoder, RealmScorer, RealmTokenizer
from realm_core.errors import ArtifactCorruptError, ArtifactMissingError
from realm_core.modeling.checkpoints import load_encoder
from realm_core.storage.files import Store
from realm_core.training.export import export_best
from realm_core.training.run_folder import Merit, RunFolder
from realm_core.training.schedule import make_optimizer
from realm_core.training.state import save_training_state


@pytest.fixture
def bert(tmp_path):
    return write_bert(tmp_path / "bert")


def start(bert):
    return load_encoder(bert), RealmKnowledgeAugEncoder.from_bert(bert)


def save_trained(run, bert, step, utility, *, is_separate=False):
    """A checkpoint whose weights are moved by the step; returns its models."""
    encoder, reader = start(bert)
    encoder = encoder.separated() if is_separate else encoder
    models = {**encoder.models, "encoder": reader}
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                parameter.add_(step)

    save_models(run, models, step, utility)
    return models


def save_models(run, models, step, utility):
    def write(folder):
        save_training_state(
            folder,
            models=models,
            optimizer=make_optimizer(models.values(), learning_rate=0.1),
            step=step,
            data_position={},
            rng=np.random.default_rng(0),
        )

    run.save_checkpoint(step, write, merit=Merit(step=step, retrieval_utility=utility, is_whole=True))


def test_the_best_checkpoint_is_exported_and_loads_as_each_class(tmp_path, bert, capfd):
    run = RunFolder(Store(str(tmp_path / "store")), "pretrain-x")
    best = save_trained(run, bert, 1, utility=0.5)
    save_trained(run, bert, 2, utility=0.2)
    encoder, reader = start(bert)
    capfd.readouterr()
    facts = export_best(run, encoder=encoder, reader=reader)
    assert capfd.readouterr() == ("", "")  # no progress bar of transformers in the run's display
    assert (facts["best_step"], facts["best_retrieval_utility"]) == (1, 0.5)
    folder = tmp_path / "store/runs/pretrain-x/export"
    assert facts["export"] == str(folder)
    expected = {
        (RealmEmbedder, "embedder"): best["embedder"].state_dict(),
        (RealmScorer, "scorer"): {f"embedder.{n}": t for n, t in best["embedder"].state_dict().items()},
        (RealmKnowledgeAugEncoder, "encoder"): best["encoder"].state_dict(),
    }
    for (kind, name), tensors in expected.items():
        model, info = kind.from_pretrained(folder / name, output_loading_info=True)
        assert not any(info.values()), (name, info)
        assert model.state_dict().keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert torch.equal(model.state_dict()[key], tensor), key
        ids = RealmTokenizer.from_pretrained(folder / name)("the old bridge")["input_ids"]
        assert ids == encoder.tokenizer.encode("[CLS] the old bridge [SEP]", add_special_tokens=False).ids
    again = load_encoder(folder / "embedder")
    assert torch.equal(again.embedder.cls.dense.weight, best["embedder"].cls.dense.weight)


def test_a_query_embedder_of_its_own_is_exported_beside_that_of_blocks(tmp_path, bert):
    run = RunFolder(Store(str(tmp_path / "store")), "pretrain-x")
    best = save_trained(run, bert, 1, utility=0.5, is_separate=True)
    with torch.no_grad():
        best["query_embedder"].cls.dense.weight.add_(1.0)
    save_models(run, best, 2, utility=0.7)
    encoder, reader = start(bert)
    export_best(run, encoder=encoder.separated(), reader=reader)
    folder = tmp_path / "store/runs/pretrain-x/export"
    assert sorted(path.name for path in folder.iterdir()) == ["embedder", "encoder", "query_embedder", "scorer"]
    both = load_encoder(folder / "scorer")
    for name, embedder in both.models.items():
        alone = RealmEmbedder.from_pretrained(folder / name)
        for key, tensor in best[name].state_dict().items():
            assert torch.equal(embedder.state_dict()[key], tensor), (name, key)
            assert torch.equal(alone.state_dict()[key], tensor), (name, key)


def test_where_the_best_checkpoint_cannot_be_read_the_next_best_is_exported_and_said(tmp_path, bert, caplog):
    run = RunFolder(Store(str(tmp_path / "store")), "pretrain-x")
    for step, utility in ((1, 0.5), (2, 0.3), (3, 0.4)):
        save_trained(run, bert, step, utility=utility)
    flip_byte(run.local_checkpoint(1) / "model-encoder.safetensors", offset=-1)
    encoder, reader = start(bert)
    result = export_best(run, encoder=encoder, reader=reader)
    assert (result["best_step"], result["best_retrieval_utility"]) == (3, 0.4)
    assert "of step 1, cannot be read" in caplog.text
    exported = RealmEmbedder.from_pretrained(f"{result['export']}/embedder")
    for name, tensor in encoder.embedder.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor), name
    for step in (2, 3):
        flip_byte(run.local_checkpoint(step) / "model-encoder.safetensors", offset=-1)
    with pytest.raises(ArtifactCorruptError):
        export_best(run, encoder=encoder, reader=reader)


def test_a_run_without_checkpoints_has_nothing_to_export(tmp_path, bert):
    encoder, reader = start(bert)
    with pytest.raises(ArtifactMissingError, match="no checkpoint"):
        export_best(RunFolder(Store(str(tmp_path / "store")), "pretrain-x"), encoder=encoder, reader=reader)
