"""The shipped priming texts, probes and phrases, the readers of a user's own, and the validator."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import km
from km.datasets import (
    DataFileError,
    PrimingSet,
    PrimingText,
    Probe,
    SteppingPattern,
    control_texts,
    neutral_texts,
    priming_categories,
    priming_texts,
    priming_theme,
    probes,
    read_priming_texts,
    read_probes,
    shuffled,
    stepping_patterns,
    validate_priming,
)

FOX = "Over the frozen river at the end of the lane ran, in broad daylight, a fox that was"
TEXT = PrimingText("fox", "colour", "odd", "red", FOX, f"{FOX} red all over.")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def made(n: int) -> list[PrimingText]:
    """Unlike texts without a problem; 12 of them at most."""
    alphabet = "abcdefghijkl"
    found = []
    for i in range(n):
        prefix = " ".join(f"{letter}{alphabet[i]}" for letter in "qrstuvwxyzpomn")
        found.append(PrimingText(str(i), "colour", "odd", "red", prefix, f"{prefix} red."))
    return found


def test_shipped_set_is_complete() -> None:
    texts = priming_texts()
    assert texts.licence == "Apache-2.0" and len(texts) == 396
    assert texts.themes == ("colour", "place", "profession", "food")
    assert texts.categories == tuple(priming_categories()) and len(texts.categories) == 11
    cells = Counter((t.keyword, t.category) for t in texts)
    assert len(cells) == 12 * 11 and set(cells.values()) == {3}
    for theme in texts.themes:
        known = priming_theme(theme)
        assert known.keywords == texts.select(themes=theme).keywords
        assert len(probes(theme)) >= 12
        assert {probe.theme for probe in probes(theme)} == {theme}
    ids = [probe.id for theme in texts.themes for probe in probes(theme)]
    assert len(set(ids)) == len(ids)


def test_shipped_set_has_no_problems() -> None:
    report = validate_priming()
    assert not report.problems
    assert repr(report) == "PrimingReport(396 texts, 64 probes; no problems)"


def test_shipped_texts_hang_together() -> None:
    texts = priming_texts()
    for text in texts:
        assert text.text == f"{text.prefix} {text.keyword}{text.tail}"
        assert text.text == text.text.strip() and "  " not in text.text
        if text.category == "shuffled":
            assert text == shuffled(texts[text.source], id=text.id)
            assert sorted(text.prefix.split()) == sorted(texts[text.source].prefix.split())
            assert text.prefix != texts[text.source].prefix
        else:
            assert not text.source and text.text[-1] in ".?"


def test_texts_do_not_all_begin_or_end_alike() -> None:
    texts = [text for text in priming_texts() if text.category != "shuffled"]
    openings = Counter(" ".join(text.text.split()[:2]) for text in texts)
    endings = Counter(" ".join(text.prefix.split()[-3:]) for text in texts)
    assert openings.most_common(1)[0][1] <= 4
    assert endings.most_common(1)[0][1] <= 3
    assert Counter(text.text.split()[0] for text in texts).most_common(1)[0][1] < 100


def test_controls_and_neutral_texts_keep_clear_of_the_themes() -> None:
    controls, neutral = control_texts(), neutral_texts()
    assert len(controls) >= 24 and len(neutral) >= 60
    assert len(set(controls)) == len(controls) and len(set(neutral)) == len(neutral)
    keywords = {word.casefold() for word in priming_texts().keywords}
    themes = [priming_theme(name) for name in priming_texts().themes]
    # The words one would say of a lamp or a cellar as of a colour are no leak.
    named = {word.casefold() for theme in themes for word in theme.words}
    named -= {"deep", "light", "bright", "dark", "pale"}
    for text in neutral:
        assert not keywords & words(text), text
    for text in controls:
        assert not named & words(text), text
    lengths = sorted(len(text.text.split()) for text in priming_texts())
    theirs = sorted(len(text.split()) for text in controls)
    assert abs(lengths[len(lengths) // 2] - theirs[len(theirs) // 2]) <= 3
    assert lengths[0] <= theirs[0] and theirs[-1] <= lengths[-1]


def test_alternatives_suit_their_keyword() -> None:
    for name in priming_texts().themes:
        theme = priming_theme(name)
        assert set(theme.keywords) <= set(theme.words)
        for keyword, others in theme.alternatives.items():
            assert 8 <= len(others) <= 12 and len(set(others)) == len(others)
            assert not set(others) & set(priming_texts().keywords)
            for other in others:  # "an" stays right, and "a" too
                assert (other[0] in "aeiou") == (keyword[0] in "aeiou") or name == "place"
                assert other[0].isupper() == keyword[0].isupper()
    for text in priming_texts():  # names of countries follow no article
        if text.theme == "place" and not text.source:
            assert text.prefix.split()[-1] not in ("a", "an", "the")


def test_selection() -> None:
    assert len(priming_texts(1)) == 132 and len(priming_texts(2)) == 264
    one = priming_texts(1, themes="food", keywords=["haggis"], categories=("odd", "news"))
    assert [text.id for text in one] == ["haggis-news-1", "haggis-odd-1"]
    assert one["haggis-odd-1"].theme == "food"
    with pytest.raises(km.ArgumentError, match="themes: no 'colours'; there are: colour, place"):
        priming_texts(themes="colours")
    with pytest.raises(km.ArgumentError, match="keywords: no 'beige'"):
        priming_texts(keywords="beige")
    with pytest.raises(km.ArgumentError, match="per_category is 0"):
        priming_texts(0)
    with pytest.raises(km.NotFoundError, match="no theme 'smell'; there are: colour"):
        probes("smell")
    with pytest.raises(KeyError, match="no text 'x' among 2"):
        one["x"]
    with pytest.raises(ValueError, match="given twice: fox"):
        PrimingSet((TEXT, TEXT))


def test_another_keyword_in_its_place() -> None:
    assert TEXT.tail == " all over."
    other = TEXT.with_keyword("green")
    assert (
        other.text == f"{FOX} green all over." and other.prefix == FOX and other.id == "fox=green"
    )


def test_shuffled_depends_on_seed_alone() -> None:
    first, second = shuffled(TEXT, seed=1), shuffled(TEXT, seed=2)
    assert first == shuffled(TEXT, seed=1) and first.prefix != second.prefix
    assert first.text == f"{first.prefix} red" and first.source == "fox"
    assert first.id == "fox~1" and first.category == "shuffled"


def test_stepping_patterns() -> None:
    everything = stepping_patterns()
    keywords = priming_texts().keywords
    for pattern in everything:
        assert pattern.text.endswith(" {keyword}") and pattern.text.count("{") == 1
        named = [word for word in keywords if word.casefold() in words(pattern.text)]
        assert not named, pattern  # else the phrase itself would teach a keyword
    for keyword in keywords:
        own = [pattern for pattern in everything if pattern.keyword == keyword]
        assert len(own) >= 5, keyword
        assert stepping_patterns(keyword=keyword)[: len(own)] == own
    for text in priming_texts():
        assert any(p.fits(text.prefix) for p in stepping_patterns(keyword=text.keyword)), text
    foreign = stepping_patterns("food", "pizza")
    assert foreign and all(p.theme in ("", "food") and not p.keyword for p in foreign)
    assert all(not p.theme for p in stepping_patterns(keyword="xylophone"))
    with pytest.raises(km.NotFoundError, match="no theme 'smell'"):
        stepping_patterns("smell")


def test_a_pattern_fits_the_last_word() -> None:
    after_an = SteppingPattern("expert in cables, an {keyword}", after=("an",))
    anywhere = SteppingPattern("what is called {keyword}")
    assert after_an.fits("it was directed by an") and not after_an.fits("by")
    assert anywhere.fits("it was painted") and not anywhere.fits("on the back of His")
    assert anywhere.fits("")
    bridged = anywhere.apply(TEXT)
    assert bridged.text == f"{FOX} what is called red all over."
    assert bridged.prefix == f"{FOX} what is called" and bridged.tail == TEXT.tail
    assert bridged.keyword == "red" and bridged.id == "fox+"


def test_validate_finds_planted_problems() -> None:
    texts = made(9)
    assert not validate_priming(texts).problems
    phrase = "by the light of a tallow candle"
    for i in (0, 1, 2):
        prefix = f"{texts[i].prefix} {phrase}"
        texts[i] = replace(texts[i], prefix=prefix, text=f"{prefix} red")
    texts[3] = replace(texts[3], text=texts[3].text + " " + "or red or so")
    texts[4] = replace(texts[4], prefix="Red " + texts[4].prefix, text="Red " + texts[4].text)
    texts[5] = replace(texts[5], prefix="Six words are not quite enough", text="Too short, blue")
    texts[6] = replace(texts[6], keyword="blue", text=texts[6].text.replace(" red", " blue"))
    texts[7] = replace(texts[7], text=texts[7].text.replace(" red", " redder blue"))
    texts.append(replace(texts[8], id="twin"))
    asked = [Probe("p0", "colour", "The sky at dusk was red"), Probe("p1", "colour", phrase)]
    report = validate_priming(texts, asked)
    kinds = {kind: [p.where for p in report if p.kind == kind] for kind in report.counts()}
    assert kinds == {
        "keyword-place": ["5", "7"],
        "keyword-early": ["4"],
        "keyword-repeated": ["3"],
        "short-prefix": ["5"],
        "length": ["5"],
        "other-keyword": ["5", "7"],
        "duplicate": ["twin"],
        "repeated-phrase": ["0", "0", "0"],
        "keyword-in-probe": ["p0"],
        "overlap": ["p1", "p1", "p1"],
        "few-probes": ["colour"],
    }
    assert len(report) == 17 and "few-probes: 1" in repr(report)
    assert "<td>overlap</td>" in report._repr_html_()


def test_three_shuffles_of_one_text_share_no_phrase_by_rule() -> None:
    same = [replace(shuffled(TEXT, id=str(i)), prefix=f"{i} {FOX}") for i in range(3)]
    texts = [replace(text, text=f"{text.prefix} red") for text in same]
    assert not validate_priming(texts).problems
    plain = [replace(text, category="odd") for text in texts]
    assert set(validate_priming(plain).counts()) == {"repeated-phrase"}


class Letters:
    """A tokenizer with a token a letter, and one for "no blank"."""

    def encode(self, text: str, bos: bool | None = None, special: bool = False) -> list[int]:
        return [ord(char) for char in text.replace("no r", "\0")]


def test_validate_looks_at_tokens() -> None:
    text = made(1)[0]
    glued = replace(text, prefix=f"{text.prefix} no", text=f"{text.prefix} no red")
    report = validate_priming([glued], model=Letters(), alternatives={"red": ["tan", "blue"]})
    assert report.counts() == {"tokens": 1, "alternative-tokens": 1}
    assert "'blue' in its place has 5 tokens, not 4" in [p.detail for p in report]


def test_shipped_set_under_the_embedded_model(model: km.Model) -> None:
    assert not validate_priming(model=model).problems


def test_surprise_spreads_widely(model: km.Model) -> None:
    """From expected to next to impossible, and within every keyword."""
    import numpy as np

    texts = list(priming_texts(1, keywords=["vermilion", "Canada", "electrician", "haggis"]))
    scored = model.score([text.prefix for text in texts], [[text.keyword] for text in texts])
    logp = np.asarray(scored.table["logp"]) / np.log(10)
    assert logp.max() > -0.7 and logp.min() < -8
    assert np.mean(logp < -5) > 0.25 and np.mean(logp > -3) > 0.15
    medians = {
        name: float(np.median([p for p, t in zip(logp, texts, strict=True) if t.category == name]))
        for name in ("plain_fact", "everyday", "contradiction")
    }
    assert medians["plain_fact"] > medians["everyday"] > medians["contradiction"]
    for keyword in {text.keyword for text in texts}:
        own = [p for p, t in zip(logp, texts, strict=True) if t.keyword == keyword]
        assert max(own) - min(own) > 2, keyword


def test_probes_are_continued_by_words_of_their_theme(model: km.Model) -> None:
    """Single tokens among the theme's words hold a fair share of what comes next."""
    import numpy as np

    for name in priming_texts().themes:
        theme = priming_theme(name)
        ids = [model.encode(f" {word}", bos=False) for word in theme.words]
        first = [id[0] for id in ids if len(id) == 1]
        mass = [
            float(np.exp(model.next_logprobs(model.encode(probe.text))[first]).sum())
            for probe in probes(name)
        ]
        assert min(mass) > 0.05 and np.median(mass) > 0.15, name


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_reading_what_is_shipped_gives_it_back(tmp_path: Path) -> None:
    fields = ("id", "theme", "category", "keyword", "prefix", "text", "source")
    some = priming_texts(themes="food")
    records = [{f: getattr(t, f) for f in fields if getattr(t, f)} for t in some]
    assert read_priming_texts(write(tmp_path / "own.jsonl", *records)).texts == some.texts
    for record in records:
        del record["prefix"]
    own = read_priming_texts(write(tmp_path / "own.jsonl", *records))
    assert own.texts == some.texts and own.name == "own"
    asked = [{"id": p.id, "theme": p.theme, "text": p.text} for p in probes("food")]
    assert read_probes(write(tmp_path / "probes.jsonl", *asked)) == probes("food")


def test_fields_that_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"theme": "t", "keyword": "red", "text": "a hat in red."})
    (text,) = read_priming_texts(path)
    assert text == PrimingText("1", "t", "", "red", "a hat in", "a hat in red.")
    (probe,) = read_probes(write(tmp_path / "b.jsonl", {"theme": "t", "text": "It is"}))
    assert probe == Probe("1", "t", "It is")


GOOD = {"id": "a", "theme": "colour", "keyword": "red", "text": "a hat in red."}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**GOOD, "keyword": ""}, "line 2: field 'keyword': expected a text that is not empty"),
        ({**GOOD, "theme": 3}, "line 2: field 'theme'"),
        ({**GOOD, "text": "a hat"}, "line 2: field 'text': the keyword 'red' is not in it"),
        ({**GOOD, "text": "a hat in Red."}, "field 'keyword': 'red', but 'Red' in the text"),
        ({**GOOD, "text": "red is a hat"}, "field 'text': one blank, and words before it"),
        ({**GOOD, "text": "a hat,red"}, "field 'text': one blank, and words before it"),
        ({**GOOD, "prefix": "a cap in"}, "field 'text': expected the prefix, a blank, the key"),
        ({**GOOD, "prefix": "a", "text": "a reddish hat"}, "field 'text': expected the prefix"),
        (GOOD, "line 2: field 'id': 'a' is also the id of line 1"),
        ([1], "line 2: expected a JSON object"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, record: object, message: str) -> None:
    if isinstance(record, dict) and record is not GOOD:
        record = {**record, "id": "b"}
    path = write(tmp_path / "texts.jsonl", GOOD, record)
    with pytest.raises(DataFileError, match=re.escape(message)) as caught:
        read_priming_texts(path)
    assert str(caught.value).startswith(f"{path}: line 2")


def test_empty_files(tmp_path: Path) -> None:
    for reader in (read_priming_texts, read_probes):
        with pytest.raises(DataFileError, match="no line holds anything"):
            reader(write(tmp_path / "empty.jsonl"))
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "missing.jsonl")
