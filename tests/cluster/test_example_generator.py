import threading

import pytest

from cluster.example_generator import QUEUE_BATCHES, BatchQueue
from realm_core.errors import TrainingError


class Batch:
    def __init__(self, position):
        self.position = position
        self.next_position = position + 5


class Generator:
    """Makes a batch of five positions; counts what it made, and can fail at a position."""

    def __init__(self, fails_at=None):
        self.made = []
        self.fails_at = fails_at
        self.full = threading.Event()

    def batch_at(self, position):
        if position == self.fails_at:
            self.fails_at = None
            raise TrainingError(where="here", found="nothing", expected="something", action="Look.")
        self.made.append(position)
        if len(self.made) > QUEUE_BATCHES:
            self.full.set()
        return Batch(position)


def test_batches_follow_each_other_and_are_made_ahead_but_not_without_bound():
    generator = Generator()
    batches = BatchQueue(generator)
    assert batches.batch_at(0)[0].position == 0
    assert generator.full.wait(10)
    assert len(generator.made) <= 1 + QUEUE_BATCHES + 1
    assert [batches.batch_at(p)[0].position for p in (5, 10, 15)] == [5, 10, 15]


def test_another_position_starts_over_there():
    batches = BatchQueue(Generator())
    assert batches.batch_at(0)[0].position == 0
    assert batches.batch_at(100)[0].position == 100
    assert batches.batch_at(105)[0].position == 105
    assert batches.batch_at(100)[0].position == 100


def test_what_making_a_batch_raises_reaches_the_trainer_and_the_next_call_tries_again():
    batches = BatchQueue(Generator(fails_at=5))
    batches.batch_at(0)
    with pytest.raises(TrainingError, match="nothing"):
        batches.batch_at(5)
    assert batches.batch_at(5)[0].position == 5
