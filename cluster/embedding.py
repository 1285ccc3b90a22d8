"""Embedding a corpus with a pool of Ray actors: each part exactly once, whatever dies."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.calls import as_realm_error, get
from realm_core.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from cluster.resources import ResourcePlan
    from realm_core.engines.part_embedder import EmbeddedPart
    from realm_core.engines.precision import Precision
    from realm_core.storage.block_store import PartEntry

MAX_ATTEMPTS_PER_PART = 4
"""A part whose actor dies this often is not retried again: the part is the likely cause."""
START_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedResult:
    """Embeddings of a corpus, in the manifest's part order; `parts made + parts reused = parts`."""

    parts: tuple[EmbeddedPart, ...]
    num_retries: int
    seconds: float

    @property
    def num_reused(self) -> int:
        """Parts whose embeddings were there already."""
        return sum(part.was_reused for part in self.parts)

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(part.part.num_rows for part in self.parts)


class EmbeddingWorker:
    """`PartEmbedder` in a process of its own; progress is answered while a part is being embedded."""

    def __init__(self, store_url: str, *, threads: int, use_gpu: bool, precision: Precision) -> None:
        import torch

        from realm_core.engines.part_embedder import PartEmbedder
        from realm_core.storage.files import Store

        torch.set_num_threads(threads)
        self._embedder = PartEmbedder(Store(store_url), device="cuda" if use_gpu else "cpu", precision=precision)

    @ray.method(concurrency_group="work")
    def embed(self, part: PartEntry, encoder_digest: str) -> EmbeddedPart:
        """See `PartEmbedder.embed`."""
        return self._embedder.embed(part, encoder_digest)

    @ray.method(concurrency_group="work")
    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """See `PartEmbedder.encode_queries`."""
        return self._embedder.encode_queries(token_ids, encoder_digest)

    @ray.method(concurrency_group="watch")
    def rows_done(self) -> int:
        """Rows since the actor's start."""
        return self._embedder.rows_done


EmbeddingActor: Any = ray.remote(concurrency_groups={"work": 1, "watch": 1})(EmbeddingWorker)


@dataclass
class _Run:
    """What one `embed` call has to do and has done."""

    encoder_digest: str
    todo: deque[PartEntry]
    attempts: dict[str, int] = field(default_factory=dict)
    done: dict[str, EmbeddedPart] = field(default_factory=dict)
    at_work: dict[Any, tuple[Any, PartEntry]] = field(default_factory=dict)
    num_retries: int = 0


class EmbeddingPool:
    """A fixed number of embedding actors, kept between runs; a dead one is replaced and its part given out again."""

    def __init__(self, store_url: str, plan: ResourcePlan) -> None:
        self._store_url = store_url
        self._plan = plan
        self._actors = [self._start_actor() for _ in range(plan.embedding_workers)]

    def embed(
        self,
        parts: Sequence[PartEntry],
        encoder_digest: str,
        *,
        progress: Callable[[int], None] = lambda _: None,
        poll_seconds: float = 1.0,
    ) -> EmbedResult:
        """Embeds all parts, largest first; `progress` is called with the rows done so far.

        Raises:
            RealmError: what the embedding of a part raised; the other parts that were being embedded are kept.
            ServiceUnavailableError: a part's actor died `MAX_ATTEMPTS_PER_PART` times.
        """
        started = time.monotonic()
        largest_first = sorted(parts, key=lambda part: -part.num_tokens)
        run = _Run(encoder_digest=encoder_digest, todo=deque(largest_first))
        before = self._rows_done()
        while run.todo or run.at_work:
            self._hand_out(run)
            ready, _ = ray.wait(list(run.at_work), timeout=poll_seconds)
            for ref in ready:
                self._collect(run, ref)
            done_rows = sum(part.part.num_rows for part in run.done.values())
            progress(max(done_rows, min(self._rows_done() - before, sum(part.num_rows for part in parts))))
        return EmbedResult(
            parts=tuple(run.done[part.digest] for part in parts),
            num_retries=run.num_retries,
            seconds=time.monotonic() - started,
        )

    def encode_queries(self, token_ids: Sequence[Sequence[int]], encoder_digest: str) -> np.ndarray:
        """Query embeddings [B, D], by one of the actors."""
        ref = self._actors[0].encode_queries.remote(token_ids, encoder_digest)
        embeddings: np.ndarray = get(ref, timeout_seconds=START_TIMEOUT_SECONDS, what="encoding of queries")
        return embeddings

    @property
    def precision(self) -> Precision:
        """Arithmetic of the embeddings that the pool makes."""
        return self._plan.precision

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start_actor(self) -> Any:  # noqa: ANN401 - actor handles are untyped
        return EmbeddingActor.options(**self._plan.embedding_options()).remote(
            self._store_url,
            threads=self._plan.embedding_threads,
            use_gpu=self._plan.embedding_gpus > 0,
            precision=self._plan.precision,
        )

    def _hand_out(self, run: _Run) -> None:
        busy = {id(actor) for actor, _ in run.at_work.values()}
        for actor in self._actors:
            if run.todo and id(actor) not in busy:
                part = run.todo.popleft()
                run.attempts[part.digest] = run.attempts.get(part.digest, 0) + 1
                run.at_work[actor.embed.remote(part, run.encoder_digest)] = (actor, part)

    def _collect(self, run: _Run, ref: Any) -> None:  # noqa: ANN401
        actor, part = run.at_work.pop(ref)
        try:
            run.done[part.digest] = ray.get(ref)
        except RayTaskError as error:
            self._wait_for_the_rest(run)
            raise as_realm_error(error) from error
        except RayActorError as error:
            self._replace(actor)
            if run.attempts[part.digest] >= MAX_ATTEMPTS_PER_PART:
                raise _part_kills_actors(part, error) from error
            run.num_retries += 1
            run.todo.appendleft(part)

    def _replace(self, dead: Any) -> None:  # noqa: ANN401
        self._actors = [self._start_actor() if actor is dead else actor for actor in self._actors]

    def _wait_for_the_rest(self, run: _Run) -> None:
        """Lets the other actors finish the parts they are at, so that a rerun finds them done."""
        if run.at_work:
            ray.wait(list(run.at_work), num_returns=len(run.at_work), timeout=START_TIMEOUT_SECONDS)

    def _rows_done(self) -> int:
        refs = [actor.rows_done.remote() for actor in self._actors]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0.5)
        return sum(_value_or_zero(ref) for ref in ready)


def _value_or_zero(ref: Any) -> int:  # noqa: ANN401
    try:
        return int(ray.get(ref))
    except RayActorError:
        return 0  # a dead actor has no progress to show; `_collect` sees to its part


def _part_kills_actors(part: PartEntry, error: BaseException) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        where=f"part {part.digest[:12]} ({part.num_rows} blocks)",
        found=f"its embedding actor died {MAX_ATTEMPTS_PER_PART} times ({str(error).splitlines()[0]})",
        expected="an actor that lives through it",
        action="Look for memory exhaustion in Ray's logs; a rerun goes on with the parts that are missing.",
    )
