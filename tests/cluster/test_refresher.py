import pytest

from cluster.refresher import NewestFirst
from realm_core.storage.encoder_pointer import EncoderVersion


def encoder(step):
    return EncoderVersion(digest=f"e{step}", step=step, saved_at_seconds=0.0)


def test_the_newest_replaces_the_one_that_waits_and_the_skipped_are_remembered():
    mailbox = NewestFirst()
    for step in (10, 20, 30):
        assert mailbox.offer(encoder(step))
    assert mailbox.waiting_step() == 30
    assert mailbox.take() == (encoder(30), [10, 20])
    assert mailbox.waiting_step() is None


@pytest.mark.parametrize("step", [10, 20])
def test_a_replayed_step_is_not_taken_again(step):
    mailbox = NewestFirst()
    mailbox.offer(encoder(20))
    mailbox.take()
    assert not mailbox.offer(encoder(step))
    assert mailbox.waiting_step() is None
    assert mailbox.offer(encoder(21))
    assert mailbox.take() == (encoder(21), [])
