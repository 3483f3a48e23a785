"""A run made of chunks, each looked up in a knowledge base first and stored when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.table import Table

if TYPE_CHECKING:
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
            if self.kb is not None and self.run_id is not None:
                stopped = isinstance(error, KeyboardInterrupt | _km.CancelledError)
                self.kb.finish_run(self.run_id, "cancelled" if stopped else "failed")
            raise
        return chunks

    def _job(self, key: str, measure: Callable[[], Table]) -> Table:
        found = self.kb.load_chunk(key) if self.kb is not None else None
        if found is not None:
            return found
        if self.kb is not None and not self.kb.read_only and self.run_id is None:
            self.run_id = self.kb.begin_run(self.provenance)
        table = measure()
        if self.kb is not None and self.run_id is not None:
            self.kb.store_chunk(self.run_id, key, table)
        return table


def counted(jobs: Iterable[Job], report: Callable[[int], object]) -> Iterator[Job]:
    """The jobs; after each, `report` is told how many are done."""
    for done, job in enumerate(jobs, 1):
        yield job
        report(done)
