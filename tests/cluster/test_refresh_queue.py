import pytest

from cluster.refresh_queue import NewestFirst
from realm_core.storage.encoder_pointer import EncoderVersion


def encoder(step):
    return EncoderVersion(digest=f"e{step}", step=step, saved_at_seconds=0.0)


def test_the_newest_replaces_the_one_that_waits_and_the_skipped_are_remembered():
    mailbox = NewestFirst()
    for step in (10, 20, 30):
        assert mailbox.offer(encoder(step))
    assert mailbox.in_work_and_waiting() == (None, encoder(30))
    assert mailbox.take() == (encoder(30), [encoder(10), encoder(20)])
    assert mailbox.in_work_and_waiting() == (encoder(30), None)
    mailbox.done()
    assert mailbox.in_work_and_waiting() == (None, None)


@pytest.mark.parametrize("step", [10, 20])
def test_a_replayed_step_is_not_taken_again(step):
    mailbox = NewestFirst()
    mailbox.offer(encoder(20))
    mailbox.take()
    assert not mailbox.offer(encoder(step))
    assert mailbox.in_work_and_waiting()[1] is None
    assert mailbox.offer(encoder(21))
    assert mailbox.take() == (encoder(21), [])


def test_what_was_cut_off_is_in_work_from_the_start_and_not_passed_over():
    mailbox = NewestFirst(newest_step=20, cut_off=encoder(20))
    assert not mailbox.offer(encoder(20))
    assert mailbox.offer(encoder(30))
    assert mailbox.offer(encoder(40))
    assert mailbox.in_work_and_waiting() == (encoder(20), encoder(40))
    assert mailbox.take() == (encoder(20), [])
    mailbox.done()
    assert mailbox.take() == (encoder(40), [encoder(30)])
