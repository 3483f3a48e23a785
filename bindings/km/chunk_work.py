"""A run made of chunks, each looked up in a knowledge base first and stored when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.table import Table

if TYPE_CHECKING:
    import threading
    from concurrent.futures import Future

    from km.kb import KnowledgeBase

Job: TypeAlias = "tuple[str, Callable[[], Table]]"


class ChunkWork:
    """Tables measured one after another, each under its content key.

    Attributes
    ----------
    provenance : dict
        Of the run that is begun with the first table that has to be measured.
    run_id : int or None
        That run; None as long as nothing was measured.
    """

    def __init__(self, kb: KnowledgeBase | None, provenance: dict[str, Any]) -> None:
        self.kb = kb
        self.provenance = provenance
        self.run_id: int | None = None

    def run(self, jobs: Iterable[Job]) -> list[tuple[str, Table]]:
        """Measure, or find, every job; the run in the knowledge base ends with an exception."""
        chunks = []
        try:
            for key, measure in jobs:
                chunks.append((key, self._job(key, measure)))
        except BaseException as error:
            self._fail(error)
            raise
        return chunks

    def run_together(
        self,
        jobs: Sequence[Job],
        workers: int,
        report: Callable[[int], object],
        stop: threading.Event,
    ) -> list[tuple[str, Table]]:
        """The same with several jobs at once, each in a thread of its own, begun in their order.

        Tables are stored, by the calling thread, in the order in which they are finished.

        Parameters
        ----------
        jobs : sequence of Job
            Jobs that run at once must not use the same context of a model.
        workers : int
        report : callable
            Told how many are done.
        stop : threading.Event
            Set when an exception, such as Ctrl-C, ends the run: jobs that watch it may raise then.
            What finishes all the same is stored.
        """
        from concurrent.futures import ThreadPoolExecutor, as_completed, wait

        tables: dict[str, Table] = {}
        for key, _ in jobs:
            found = self.kb.load_chunk(key) if self.kb is not None else None
            if found is not None:
                tables[key] = found
        report(len(tables))
        missing = [(key, measure) for key, measure in jobs if key not in tables]
        if missing:
            self._begin()
        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(measure): key for key, measure in missing}
            try:
                for future in as_completed(futures):
                    self._keep(futures[future], future, tables)
                    report(len(tables))
            except BaseException as error:
                stop.set()
                for future in futures:
                    future.cancel()
                wait(futures)
                for future, key in futures.items():
                    if not future.cancelled() and future.exception() is None:
                        self._keep(key, future, tables)
                self._fail(error)
                raise
        return [(key, tables[key]) for key, _ in jobs]

    def _keep(self, key: str, future: Future[Table], tables: dict[str, Table]) -> None:
        if key not in tables:
            table = future.result()
            self._store(key, table)
            tables[key] = table

    def _fail(self, error: BaseException) -> None:
        """End the run in the knowledge base."""
        if self.kb is not None and self.run_id is not None:
            stopped = isinstance(error, KeyboardInterrupt | _km.CancelledError)
            self.kb.finish_run(self.run_id, "cancelled" if stopped else "failed")

    def _begin(self) -> None:
        if self.kb is not None and not self.kb.read_only and self.run_id is None:
            self.run_id = self.kb.begin_run(self.provenance)

    def _store(self, key: str, table: Table) -> None:
        if self.kb is not None and self.run_id is not None:
            self.kb.store_chunk(self.run_id, key, table)

    def _job(self, key: str, measure: Callable[[], Table]) -> Table:
        found = self.kb.load_chunk(key) if self.kb is not None else None
        if found is not None:
            return found
        self._begin()
        table = measure()
        self._store(key, table)
        return table


def counted(jobs: Iterable[Job], report: Callable[[int], object]) -> Iterator[Job]:
    """The jobs; after each, `report` is told how many are done."""
    for done, job in enumerate(jobs, 1):
        yield job
        report(done)
