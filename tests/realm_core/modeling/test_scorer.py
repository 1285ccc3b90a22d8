from __future__ import annotations

import torch
from support.tiny_encoders import realm_config

from realm_core.modeling.embedder import RealmEmbedder
from realm_core.modeling.scorer import RealmScorer


def candidates():
    torch.manual_seed(3)
    ids = torch.randint(5, 40, (2, 3, 7))
    mask = torch.ones_like(ids)
    mask[:, 1, 4:] = 0
    types = torch.zeros_like(ids)
    types[..., 3:] = 1
    return ids, mask, types


def arguments():
    ids, mask, types = candidates()
    return {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "candidate_input_ids": ids,
        "candidate_attention_mask": mask,
        "candidate_token_type_ids": types,
    }


def test_relevance_is_the_inner_product_of_the_two_embeddings():
    scorer = RealmScorer(realm_config()).eval()
    output = scorer(**arguments())
    assert output.query_score.shape == (2, 8)
    assert output.candidate_score.shape == (2, 3, 8)
    ids, mask, types = candidates()
    for query in range(2):
        for candidate in range(3):
            embedding = scorer.embedder(
                ids[query, candidate][None], mask[query, candidate][None], types[query, candidate][None]
            ).projected_score[0]
            torch.testing.assert_close(output.candidate_score[query, candidate], embedding, rtol=1e-4, atol=1e-5)
            expected = (output.query_score[query] * embedding).sum()
            torch.testing.assert_close(output.relevance_score[query, candidate], expected, rtol=1e-4, atol=1e-4)


def test_candidates_may_come_flat_and_the_output_as_a_tuple():
    scorer = RealmScorer(realm_config()).eval()
    flat = {name: value.flatten(0, -2) for name, value in arguments().items()}
    for actual, expected in zip(scorer(**flat, return_dict=False), scorer(**arguments()).to_tuple(), strict=True):
        assert torch.equal(actual, expected)


def test_word_embeddings_may_replace_the_candidates_ids():
    scorer = RealmScorer(realm_config()).eval()
    given = arguments()
    embeds = scorer.embedder.get_input_embeddings()(given.pop("candidate_input_ids").flatten(0, 1))
    actual = scorer(**given, candidate_inputs_embeds=embeds).relevance_score
    assert torch.equal(actual, scorer(**arguments()).relevance_score)


def test_queries_may_have_an_embedder_of_their_own():
    other = RealmEmbedder(realm_config()).eval()
    given = arguments()
    expected = other(given["input_ids"], given["attention_mask"]).projected_score
    scorer = RealmScorer(realm_config(), query_embedder=other).eval()
    assert scorer.query_embedder is other
    assert torch.equal(scorer(**given).query_score, expected)
    assert "query_embedder.realm.pooler.dense.weight" in scorer.state_dict()


def test_two_embedders_are_saved_and_loaded_as_two(tmp_path):
    scorer = RealmScorer(realm_config(), query_embedder=RealmEmbedder(realm_config())).eval()
    scorer.save_pretrained(tmp_path)
    empty = RealmEmbedder(realm_config())
    loaded, info = RealmScorer.from_pretrained(tmp_path, query_embedder=empty, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(loaded(**arguments()).relevance_score, scorer(**arguments()).relevance_score)


def test_a_shared_embedder_is_saved_once_and_loaded_silently(tmp_path, caplog):
    scorer = RealmScorer(realm_config()).eval()
    assert scorer.query_embedder is scorer.embedder
    scorer.save_pretrained(tmp_path)
    loaded, info = RealmScorer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not caplog.records
    assert torch.equal(loaded(**arguments()).relevance_score, scorer(**arguments()).relevance_score)
    assert not loaded.embedder.cls.predictions.bias.requires_grad
