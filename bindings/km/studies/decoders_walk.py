"""Several decoders over the same cases at once: what they write, and how they score given texts.

Settings that look at the same logits share them: a place (a prompt and what was generated) is
computed once, whoever asks. What each writes is what :meth:`km.Model.generate` gives with it, but
that an answer does not end before its first token.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from km import _km
from km.scores import decoding
from km.studies.decoders_cases import Case
from km.studies.decoders_settings import CODA, EXCLUDED, Layers, Setting, View
from km.token_forest import PASS_TOKENS, TokenForest

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model

    Row = np.ndarray[Any, Any]

Ids = tuple[int, ...]

# Rows of logits of one round are kept together: no more bytes than this.
_ROUND_BYTES = 320 << 20


class Seen(NamedTuple):
    """What a setting makes of one place: its choice, and the log-probability of given tokens."""

    best: int
    logps: dict[int, float]


class Outcome(NamedTuple):
    """One case with one setting.

    Attributes
    ----------
    ids : tuple of int
        Generated.
    text : str
    logps : (float, float) or None
        Of the wanted class and of the other.
    left_out : int or None
        Position in the prompt of the token that CoDa found.
    """

    ids: Ids
    text: str
    logps: tuple[float, float] | None
    left_out: int | None


@dataclass
class _Track:
    """One case with one setting under way."""

    case: Case
    setting: Setting
    prompt: Ids
    without: Ids
    classes: tuple[Ids, ...]
    left_out: int | None
    seen: dict[Ids, Seen] = field(default_factory=dict)
    ids: Ids = ()
    text: str = ""
    is_done: bool = False

    def wanted(self) -> set[Ids]:
        """The places to be looked at next."""
        places = {given[:n] for given in self.classes for n in range(len(given))}
        if not self.is_done:
            places.add(self.ids)
        return places - self.seen.keys()

    def nexts(self, place: Ids) -> list[int]:
        """The tokens of the classes that follow a place."""
        n = len(place)
        return [given[n] for given in self.classes if len(given) > n and given[:n] == place]

    def advance(self, model: Model) -> None:
        """Generate as far as places were looked at."""
        while not self.is_done and self.ids in self.seen:
            token = self.seen[self.ids].best
            self.ids += (token,)
            if token != model.eos:
                self.text = _text(model, self.ids)
            self.is_done = (
                token == model.eos
                or len(self.ids) == self.case.max_tokens
                or self.case.is_decided(self.text)
            )

    def outcome(self) -> Outcome:
        logps = None
        if self.classes:
            sums = [
                sum(self.seen[given[:n]].logps[token] for n, token in enumerate(given))
                for given in self.classes
            ]
            logps = (sums[0], sums[1])
        return Outcome(self.ids, self.text, logps, self.left_out)


def _text(model: Model, ids: Ids) -> str:
    shown = [token for token in ids if token != model.eos and not model.is_special(token)]
    return model.decode_bytes(shown).decode("utf-8", "replace") if shown else ""


def walk(
    model: Model,
    cases: Sequence[Case],
    classes: Sequence[tuple[str, str] | None],
    settings: Sequence[Setting],
) -> list[list[Outcome]]:
    """What each setting makes of each case.

    Parameters
    ----------
    model : Model
    cases : sequence of Case
    classes : sequence of (str, str) or None
        Of each case, the continuations that are scored, the wanted one first.
    settings : sequence of Setting
        CoDa's are left out of cases that it does not decode.

    Returns
    -------
    list of lists of Outcome
        For each case, one a setting that decodes it.
    """
    tracks = [
        _tracks(model, case, given, [s for s in settings if s.decodes(case)])
        for case, given in zip(cases, classes, strict=True)
    ]
    for group in _groups(model, tracks):
        _Round(model, group).run()
    return [[track.outcome() for track in each] for each in tracks]


def _tracks(
    model: Model, case: Case, given: tuple[str, str] | None, settings: Sequence[Setting]
) -> list[_Track]:
    prompt, without = tuple(model.encode(case.prompt)), tuple(model.encode(case.without))
    classes = tuple(tuple(model.encode(text, bos=False)) for text in given or ())
    first = _common(prompt, model.encode(case.example)) if case.example else 0
    found = left_out(model, prompt, [s for s in settings if s.decoder == CODA], first)
    return [
        _Track(case, setting, prompt, without, classes, found.get(setting)) for setting in settings
    ]


def _groups(model: Model, tracks: Sequence[list[_Track]]) -> Iterator[list[_Track]]:
    """Cases that go on together: as many as have their rows in memory."""
    row = 4 * int(model.config["vocab_size"])
    group: list[_Track] = []
    used = 0
    for each in tracks:
        places = max(len(track.wanted()) for track in each)
        kinds = sum(1 + len(layers.layers) for layers in _layers(model, each))
        size = row * places * (2 + len({track.left_out for track in each}) + kinds)
        if group and used + size > _ROUND_BYTES:
            yield group
            group, used = [], 0
        group += each
        used += size
    if group:
        yield group


def _layers(model: Model, tracks: Iterable[_Track]) -> list[Layers]:
    """The layers wanted with and without the final norm, those of all settings together."""
    found: dict[bool, set[int]] = {}
    for setting in {track.setting for track in tracks}:
        wanted = setting.layers(model)
        if wanted is not None:
            found.setdefault(wanted.norm, set()).update(wanted.layers)
    return [Layers(tuple(sorted(layers)), norm) for norm, layers in sorted(found.items())]


# ---- CoDa's token ----


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of what both begin with."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def left_out(
    model: Model, prompt: Ids, settings: Sequence[Setting], first: int = 0
) -> dict[Setting, int]:
    """The position of the token that each setting of CoDa takes to be overshadowed, if any.

    Tokens before `first` are never left out.
    """
    if not settings or len(prompt) == 1:
        return {}
    places = [i for i in range(first, len(prompt)) if not model.is_special(prompt[i])]
    full, masked = _without_each(model, prompt, places)
    found = {setting: setting.find(full, masked) for setting in settings}
    return {setting: places[n] for setting, n in found.items() if n is not None}


def _without_each(model: Model, prompt: Ids, places: Sequence[int]) -> tuple[Row, Row]:
    """Logits after a prompt (V), and after it without the token at each place (N, V).

    A variant follows the prompt's own nodes up to the place; several are computed in one pass and
    forgotten again.
    """
    import numpy as np

    n = len(prompt)
    session = _km.Session(model._model, n + max(PASS_TOKENS, n))
    first = np.asarray(
        session.append(array("i", prompt), array("q", range(-1, n - 1)), array("q", [n - 2, n - 1]))
    )
    masked = np.empty((len(places), first.shape[1]), dtype=np.float32)
    for group in _passes(n, places):
        ids, parents, rows = array("i"), array("q"), array("q")
        for place in group:
            base = n + len(ids) - (place + 1)
            ids.extend(prompt[place + 1 :])
            parents.append(place - 1)
            parents.extend(range(base + place + 1, base + n - 1))
            rows.append(len(ids) - 1)
        made = session.append(ids, parents, rows)
        masked[[places.index(place) for place in group]] = np.asarray(made)
        session.truncate(n)
    if places and places[-1] == n - 1:
        masked[-1] = first[0]
    return first[1], masked


def _passes(n: int, places: Iterable[int]) -> Iterator[list[int]]:
    """Places whose variants go into one pass; the last token's is there already."""
    group: list[int] = []
    tokens = 0
    for place in places:
        if place == n - 1:
            continue
        if group and tokens + n - 1 - place > PASS_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(place)
        tokens += n - 1 - place
    if group:
        yield group


# ---- rounds ----


class _Round:
    """A group of tracks, place by place until all are done."""

    def __init__(self, model: Model, tracks: Sequence[_Track]) -> None:
        self.model = model
        self.tracks = tracks
        self.kinds = _layers(model, tracks)
        prompts = {track.prompt for track in tracks}
        room = sum(4 * (len(prompt) + 16) for prompt in prompts)
        self.forest = TokenForest(model, room + PASS_TOKENS, {})
        self._layers = {track.setting: track.setting.layers(model) for track in tracks}

    def run(self) -> None:
        """Until nothing is wanted."""
        while wanted := [(track, place) for track in self.tracks for place in track.wanted()]:
            plain = self._plain(wanted)
            layered = self._layered(wanted)
            known: dict[tuple[Any, ...], Seen] = {}
            for track, place in wanted:
                key = (track.setting, track.prompt, track.left_out, place, track.classes)
                if key not in known:
                    known[key] = self._look(track, place, plain, layered)
                track.seen[place] = known[key]
            for track in self.tracks:
                track.advance(self.model)

    def _plain(self, wanted: Iterable[tuple[_Track, Ids]]) -> dict[Ids, Row]:
        """Logits after each sequence that a decoder looks at."""
        sequences = {ids for track, place in wanted for ids in _sequences(track, place) if ids}
        return self._rows(sorted(sequences), None)[0]

    def _layered(self, wanted: Iterable[tuple[_Track, Ids]]) -> dict[tuple[bool, int], Any]:
        """By norm and layer, logits of that layer after each sequence."""
        found: dict[tuple[bool, int], Any] = {}
        for kind in self.kinds:
            sequences = {
                track.prompt + place
                for track, place in wanted
                if (own := self._layers[track.setting]) is not None and own.norm == kind.norm
            }
            if sequences:
                rows = self._rows(sorted(sequences), kind)[1:]
                found |= {(kind.norm, n): rows[i] for i, n in enumerate(kind.layers)}
        return found

    def _rows(self, sequences: list[Ids], kind: Layers | None) -> list[dict[Ids, Row]]:
        """Rows of the output, then of each layer, by sequence."""
        import numpy as np

        layers, norm = kind or ((), True)
        made = np.asarray(self.forest.place(sequences, layers, norm)[1])
        parts = made.reshape(1 + len(layers), len(sequences), -1)
        return [dict(zip(sequences, part, strict=True)) for part in parts]

    def _look(self, track: _Track, place: Ids, plain: Any, layered: Any) -> Seen:
        import numpy as np

        own, without, left_out = _sequences(track, place)
        wanted = self._layers[track.setting]
        rows = None
        if wanted is not None:
            rows = np.stack([layered[wanted.norm, n][own] for n in wanted.layers])
        view = View(plain[own], plain.get(without), plain.get(left_out), rows)
        scores = track.setting.scores(view)
        total = _log_total(scores)
        logps = {
            token: float(scores[token]) - total if scores[token] > -math.inf else EXCLUDED
            for token in track.nexts(place)
        }
        return Seen(_pick(scores, plain[own], None if place else self.model.eos), logps)


def _sequences(track: _Track, place: Ids) -> tuple[Ids, Ids, Ids]:
    """What follows the prompt, that without context, and that without CoDa's token.

    Empty where the setting does not look at it.
    """
    without = track.without + place if track.setting.needs_prior else ()
    at = track.left_out
    left_out = () if at is None else track.prompt[:at] + track.prompt[at + 1 :] + place
    return track.prompt + place, without, left_out


def _pick(scores: Row, own: Row, end: int | None) -> int:
    """The best token but `end`; where nothing else is left, the model's own best."""
    import numpy as np

    if end is None:
        return decoding.pick(scores)
    for row in (scores, own):
        rest = np.array(row, dtype=np.float64)
        rest[end] = -math.inf
        if rest.max() > -math.inf:
            break
    return decoding.pick(rest)


def _log_total(scores: Row) -> float:
    """log of the sum of exp over the tokens that are not excluded."""
    import numpy as np

    largest = float(scores.max())
    return largest + math.log(float(np.exp(scores - largest).sum()))
