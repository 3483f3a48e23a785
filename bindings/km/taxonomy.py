"""The taxonomy as an object: its nodes with their evidence, and what changes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from km.display import table_html
from km.errors import ArgumentError, FormatError, NotFoundError
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.picture import Picture

Kind: TypeAlias = Literal[
    "aspect", "mechanism", "phenomenon", "hypothesis", "analysis_method", "open_question"
]
Relation: TypeAlias = Literal["proposes", "supports", "contradicts", "measures", "surveys"]
Mark: TypeAlias = Literal["paper", "seed", "known", "guess"]
Source: TypeAlias = "str | os.PathLike[str] | IO[str]"

_RELATIONS = ("proposes", "supports", "contradicts", "surveys", "measures")
_KINDS = ("aspect", "mechanism", "hypothesis", "analysis_method", "phenomenon", "open_question")
# Members of a taxonomy's file that say nothing about a single row.
_ABOUT = ("version", "about", "relations", "kinds", "seed_places")
_WORK_FIELDS = ("title", "authors", "year", "venue", "arxiv", "note")


class Taxonomy:
    """The tree of knowledge mechanisms as a knowledge base had it at one moment.

    What changes it (:meth:`add`, :meth:`add_work`, :meth:`link`, :meth:`move`, :meth:`from_json`,
    :meth:`from_bibtex`) writes to the knowledge base, all or nothing of a call, and reads this
    object anew. What is added is the user's own: a newer taxonomy of km's leaves it as it is, and
    what both say differently is listed by :meth:`conflicts`.

    Attributes
    ----------
    nodes : list of dict
        id, parent, name, kind, summary, evidence (how we know of the node), survey_section, depth;
        parents before children.
    evidence : list of dict
        The newest evidence of each node, measure, statistic and model: node, measure, statistic,
        value, low, high, n, unit, baseline, note, model, precision, run.
    """

    def __init__(self, kb: KnowledgeBase) -> None:
        self._kb = kb
        self._read()

    def _read(self) -> None:
        kb = self._kb
        columns = "id, parent, name, kind, summary, evidence, survey_section, depth"
        self.nodes = list(kb.sql(f"SELECT {columns} FROM nodes ORDER BY tree_enter").rows())
        self.evidence = list(kb.ask("evidence-on-node", node="root").rows()) if self.nodes else []
        works = kb.sql(
            "SELECT e.node, e.relation, e.evidence, w.key, w.title, w.year FROM edges AS e"
            " JOIN works AS w ON w.key = e.work ORDER BY w.year, w.key"
        )
        self._works = list(works.rows())
        self._by_id = {node["id"]: node for node in self.nodes}

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.nodes)

    def __getitem__(self, id: str) -> dict[str, Any]:
        """The node of an id, with ``children``, ``works`` and ``measured`` (its evidence)."""
        node = self._by_id.get(id)
        if node is None:
            raise NotFoundError(f"the taxonomy has no node {id!r}")
        return node | {
            "children": [n["id"] for n in self.nodes if n["parent"] == id],
            "works": [{k: v for k, v in w.items() if k != "node"} for w in self.works(id)],
            "measured": [e for e in self.evidence if e["node"] == id],
        }

    def works(self, id: str) -> list[dict[str, Any]]:
        """Works that say something about a node: node, relation, evidence, key, title, year."""
        return [work for work in self._works if work["node"] == id]

    # ---- changing ----

    def add(
        self,
        id: str,
        *,
        parent: str,
        name: str,
        kind: Kind,
        summary: str = "",
        evidence: Mark = "guess",
    ) -> bool:
        """Add a node.

        Parameters
        ----------
        id : str
            Up to 200 letters, digits and ``-_.:/+``.
        parent : str
            The node it lies below.
        name, summary : str
        kind : {"aspect", "mechanism", "phenomenon", "hypothesis", "analysis_method", \
"open_question"}
        evidence : {"paper", "seed", "known", "guess"}
            How one knows of it: from the survey, from a seed paper, generally, or not for sure.

        Returns
        -------
        bool
            Whether it is new; the same again changes nothing.

        Raises
        ------
        ArgumentError
            It is malformed, the parent is not there, or the id is with other content.
        """
        node = {"id": id, "parent": parent, "name": name, "kind": kind, "summary": summary}
        return self._change({"nodes": [node | {"evidence": evidence}]})

    def add_work(
        self,
        key: str,
        *,
        title: str,
        authors: str,
        year: int | None = None,
        venue: str | None = None,
        arxiv: str | None = None,
        note: str | None = None,
        verified_by: str = "user",
    ) -> bool:
        """Add a publication; :meth:`link` says what it does with nodes.

        Parameters
        ----------
        key, title : str
        authors : str
            "Last, F." parted by "; ".
        year : int, optional
        venue, note : str, optional
        arxiv : str, optional
            Like "2407.15017".
        verified_by : str
            How the entry was checked.

        Returns
        -------
        bool
            Whether it is new; the same again changes nothing.
        """
        work: dict[str, Any] = {"key": key, "title": title, "authors": authors}
        work |= {"verified_by": verified_by}
        work |= {"year": year, "venue": venue, "arxiv": arxiv, "note": note}
        return self._change({"works": [work]})

    def link(
        self,
        work: str,
        node: str,
        relation: Relation,
        *,
        evidence: Mark = "guess",
        note: str | None = None,
    ) -> bool:
        """Say what a work does with a node.

        Parameters
        ----------
        work : str
            Key of a work that is there.
        node : str
        relation : {"proposes", "supports", "contradicts", "measures", "surveys"}
        evidence : {"paper", "seed", "known", "guess"}
            How one knows that it does; the question ``guesses`` lists what is to be checked.
        note : str, optional

        Returns
        -------
        bool
            Whether it is new; the same again changes nothing.
        """
        edge = {"work": work, "node": node, "relation": relation, "evidence": evidence}
        return self._change({"edges": [edge | {"note": note}]})

    def move(self, id: str, parent: str) -> bool:
        """Put a node, with all below it, below another one.

        A node of km's that was moved stays there when km's taxonomy is renewed; moving it back
        ends that.

        Returns
        -------
        bool
            Whether it was elsewhere before.

        Raises
        ------
        ArgumentError
            It is the root, or would lie below itself.
        NotFoundError
            There is no such node.
        """
        return self._change({"moves": [{"id": id, "parent": parent}]})

    def conflicts(self) -> Table:
        """Where the taxonomy here says something else than km's newest, or than an imported file.

        Returns
        -------
        Table
            what, key, problem ("differs", "moved", "gone": km dropped what something here needs),
            ours and theirs (JSON), source ("km" or "import"), found.
        """
        return self._kb.ask("taxonomy-conflicts")

    def _change(self, parts: Mapping[str, Any]) -> bool:
        """Make a change that must not meet other content; whether there was anything to do."""
        with self._kb.transaction():
            rows = list(Table.wrap(self._kb._kb.edit_taxonomy(json.dumps(parts))).rows())
            for row in rows:
                if row["outcome"] == "differs":
                    raise ArgumentError(
                        f"{row['what']}: {row['key']!r} is there with other content: "
                        f"{row['ours']}, not {row['theirs']}"
                    )
        self._read()
        return bool(rows)

    def _import(self, parts: Mapping[str, Any]) -> Table:
        happened = Table.wrap(self._kb._kb.edit_taxonomy(json.dumps(parts)))
        self._read()
        return happened

    # ---- files ----

    def to_json(self, path: str | os.PathLike[str] | None = None, *, own: bool = False) -> str:
        """The taxonomy as JSON, which :meth:`from_json` reads.

        Parameters
        ----------
        path : str or os.PathLike, optional
            Also written there.
        own : bool
            Only what was added or moved here.
        """
        content = _content(self._kb, own)
        return _written(json.dumps(content, ensure_ascii=False, indent=1) + "\n", path)

    def from_json(self, source: Source | Mapping[str, Any]) -> Table:
        """Add what a file (of :meth:`to_json`, or like km's own) holds, all or nothing.

        What is here with other content stays, and is listed and kept among :meth:`conflicts`.

        Parameters
        ----------
        source : path, open text file, or mapping

        Returns
        -------
        Table
            What happened: what, outcome ("added", "moved", "differs"), n, key, ours, theirs.

        Raises
        ------
        FormatError
            Not JSON, or not an object.
        ArgumentError
            Malformed, points to what is not there, or would put a node below itself.
        """
        content = source if isinstance(source, Mapping) else _parsed(_text(source))
        return self._import({k: v for k, v in content.items() if k not in _ABOUT})

    def to_bibtex(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        node: str = "root",
        own: bool = False,
    ) -> str:
        """Works as BibTeX, which :meth:`from_bibtex` reads.

        Parameters
        ----------
        path : str or os.PathLike, optional
            Also written there.
        node : str
            Works that say something about it or what lies below it; "root": all works.
        own : bool
            Only works that were added here.
        """
        if node not in self._by_id:
            raise NotFoundError(f"the taxonomy has no node {node!r}")
        works = self._kb.sql(
            "SELECT * FROM works WHERE (origin = 'user' OR :own = 0) AND (:node = 'root' OR key IN"
            " (SELECT e.work FROM edges AS e"
            " JOIN nodes AS d ON d.id = e.node JOIN nodes AS n ON n.id = :node"
            " AND d.tree_enter BETWEEN n.tree_enter AND n.tree_leave)) ORDER BY key",
            {"node": node, "own": int(own)},
        )
        return _written("\n".join(_bibtex_entry(row) for row in works.rows()), path)

    def from_bibtex(
        self,
        source: Source,
        *,
        node: str | None = None,
        relation: Relation | None = None,
        evidence: Mark = "guess",
    ) -> Table:
        """Add the works of a BibTeX file, all or nothing; works that are here stay as they are.

        Kept are key, title, authors, year, venue, arXiv number, note and DOI (in the note). A field
        that an entry does not have is no difference.

        Parameters
        ----------
        source : path or open text file
        node : str, optional
            Link each work of the file to this node.
        relation : str, optional
            What the works do with `node`; needed with it.
        evidence : {"paper", "seed", "known", "guess"}
            How one knows that they do.

        Returns
        -------
        Table
            What happened: what, outcome ("added", "differs"), n, key, ours, theirs.

        Raises
        ------
        FormatError
            The file is malformed, an entry has no title, or two have one key.
        ArgumentError
            A key, a node or a relation is not one.
        """
        from km.bibtex_reader import entry_to_work, read_entries

        if (node is None) != (relation is None):
            raise ArgumentError("node and relation are given together or not at all")
        here = {row["key"]: row for row in self._kb.sql("SELECT * FROM works").rows()}
        works = [entry_to_work(entry) for entry in read_entries(_text(source))]
        works = [_with_ours(work, here.get(work["key"])) for work in works]
        edges = [
            {"work": w["key"], "node": node, "relation": relation, "evidence": evidence}
            for w in works
            if node is not None
        ]
        return self._import({"works": works, "edges": edges})

    def draw(self, **options: Any) -> Picture:
        """A picture of the tree with the evidence: :func:`km.draw.taxonomy`."""
        from km import draw

        return draw.taxonomy(self, **options)

    def __repr__(self) -> str:
        measured = {row["node"] for row in self.evidence}
        return (
            f"<Taxonomy: {len(self.nodes)} nodes, {len(measured)} with evidence>\n{self._outline()}"
        )

    def _outline(self, max_depth: int = 2) -> str:
        """The upper nodes, indented, with the figures of those that have evidence."""
        lines = []
        measured = {row["node"] for row in self.evidence}
        for node in self.nodes:
            if node["depth"] <= max_depth or node["id"] in measured:
                lines.append("  " * node["depth"] + node["name"] + self._figures(node["id"]))
        return "\n".join(lines)

    def _figures(self, id: str) -> str:
        rows = [row for row in self.evidence if row["node"] == id]
        shown = [
            f"{row['statistic']} {row['value']:.3g}" for row in rows if row["value"] is not None
        ]
        return f"  [{', '.join(shown[:3])}{', …' if len(shown) > 3 else ''}]" if shown else ""

    def _repr_html_(self) -> str:
        header = [("node", ""), ("kind", ""), ("works", ""), ("evidence of your runs", "")]
        counts: dict[str, int] = {}
        for work in self._works:
            counts[work["node"]] = counts.get(work["node"], 0) + 1
        measured = {row["node"] for row in self.evidence}
        rows = [
            (
                "\u2003" * node["depth"] + node["name"],
                node["kind"].replace("_", " "),
                counts.get(node["id"], 0),
                self._figures(node["id"]).strip(" []"),
            )
            for node in self.nodes
            if node["depth"] <= 2 or node["id"] in measured
        ]
        note = f"{len(self.nodes)} nodes, {len(measured)} with evidence; .draw() shows all of it"
        return table_html(header, rows, note)


def _content(kb: KnowledgeBase, own: bool) -> dict[str, Any]:
    """The taxonomy in the form of km's own file."""
    mine = "WHERE origin = 'user'" if own else ""
    moved = "OR shipped_parent IS NOT NULL"
    nodes = kb.sql(
        "SELECT id, parent, name, kind, summary, evidence, survey_section, shipped_parent, origin"
        f" FROM nodes {mine} {moved if own else ''} ORDER BY tree_enter"
    )
    works = kb.sql(
        "SELECT key, title, authors, year, venue, arxiv, verified_by, note, origin FROM works"
        f" {mine} ORDER BY year, key"
    )
    edges = kb.sql(
        f"SELECT work, node, relation, evidence, note, origin FROM edges {mine}"
        " ORDER BY work, node, relation"
    )
    of_user = "WHERE m.status = 'user'"
    measures = kb.sql(
        "SELECT m.id, m.module, m.title, m.status, (SELECT json_group_array(node) FROM"
        " (SELECT node FROM measure_nodes WHERE measure = m.id ORDER BY node)) AS nodes"
        f" FROM measures AS m {of_user if own else ''} ORDER BY m.id"
    )
    content: dict[str, Any] = {} if own else _about(kb)
    content |= {
        "nodes": [_row(row, ("parent", "survey_section")) for row in nodes.rows()],
        "works": [_row(row, ("year", "venue", "arxiv")) for row in works.rows()],
        "edges": [_row(row, ()) for row in edges.rows()],
        "measurements": [
            _row(row, ()) | {"nodes": json.loads(row["nodes"])} for row in measures.rows()
        ],
    }
    if not own:
        places: dict[str, list[str]] = {}
        for row in kb.sql("SELECT work, node FROM seed_places ORDER BY work, position").rows():
            places.setdefault(row["work"], []).append(row["node"])
        content["seed_places"] = places
    return content


def _about(kb: KnowledgeBase) -> dict[str, Any]:
    about = kb.info()
    return {
        "version": int(about.get("taxonomy_version", 0)),
        "about": about.get("taxonomy_about", ""),
        "relations": list(_RELATIONS),
        "kinds": list(_KINDS),
    }


def _row(row: Mapping[str, Any], nullable: tuple[str, ...]) -> dict[str, Any]:
    """A row without what says nothing."""
    return {
        name: value
        for name, value in row.items()
        if (value is not None or name in nullable) and not (name == "origin" and value == "km")
    }


def _bibtex_entry(row: Mapping[str, Any]) -> str:
    """A work's entry; what reading it would give otherwise stands in fields of its own."""
    from km.bibtex import escape_latex, work_to_bibtex
    from km.bibtex_reader import entry_to_work, read_entries

    entry = work_to_bibtex(row)
    (read,) = (entry_to_work(found) for found in read_entries(entry))
    lost = [
        f"  {'km' + name:13} = {{{escape_latex(row[name])}}},\n"
        for name in ("key", *_WORK_FIELDS)
        if name not in ("year", "arxiv") and row[name] and read[name] != row[name]
    ]
    return entry.removesuffix("}\n") + "".join(lost) + "}\n"


def _with_ours(work: dict[str, Any], ours: Mapping[str, Any] | None) -> dict[str, Any]:
    """A work of a file beside ours: what it does not say, or only spaces otherwise, is as ours."""
    if ours is None:
        return work
    same = {
        name: ours[name]
        for name in _WORK_FIELDS
        if not work[name] or " ".join(str(ours[name]).split()) == str(work[name])
    }
    return work | same


def _text(source: Source) -> str:
    """The text of a file or an open one."""
    if not isinstance(source, str | os.PathLike):
        return source.read()
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text") from error


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a taxonomy: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise FormatError("not a taxonomy: a JSON object was expected")
    return content


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
