"""Tables for LaTeX: numbers, intervals, escaping."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from km.errors import ArgumentError
from km.latex import interval_columns, number_latex
from km.table import Table

TABLE = Table(
    [("relation", "text"), ("n", "int64", "facts"), ("recall", "double", "share"),
     ("low", "double", "share"), ("high", "double", "share"), ("exact", "bool")],
    [["R&D_{50%}", "plain"], [1200, 7], [0.5, None], [0.4, None], [0.61234, None], [True, None]],
)  # fmt: skip


def test_a_table_with_intervals() -> None:
    made = TABLE.to_latex(caption="What 50 % know", label="tab:recall_1")
    assert (
        made
        == r"""\begin{table}
  \centering
  \caption{What 50 \% know}
  \label{tab:recall_1}
  \begin{tabular}{lrrl}
    \toprule
    relation & n (facts) & recall (share) [interval] & exact \\
    \midrule
    R\&D\_{\textbraceleft}50\%{\textbraceright} & $1{,}200$ & 0.500 [0.400, 0.612] & yes \\
    plain & $7$ & -- & -- \\
    \bottomrule
  \end{tabular}
\end{table}
"""
    )


def test_columns_digits_and_no_intervals(tmp_path: Path) -> None:
    path = tmp_path / "t.tex"
    assert TABLE.to_latex(path, columns=["high", "n"], digits={"high": 2}, intervals=False) is None
    lines = path.read_text().splitlines()
    assert [line.strip() for line in lines if "&" in line] == [
        r"high (share) & n (facts) \\", r"0.61 & $1{,}200$ \\", r"-- & $7$ \\",
    ]  # fmt: skip
    assert not any("caption" in line or "label" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0"),
        (0.123456, 3, "0.123"),
        (-0.00012345, 2, "$-0.00012$"),
        (0.0000123, 3, r"$1.23\times10^{-5}$"),
        (99.96, 3, "100"),
        (12345.6, 3, "12346"),
        (123456.0, 3, r"$1.23\times10^{5}$"),
        (0.99996, 4, "1.000"),
        (float("inf"), 3, r"$\infty$"),
        (float("nan"), 3, "NaN"),
    ],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number_latex(value, digits) == text
    plain = re.sub(r"[$]", "", text).replace(r"\times10^{", "e").replace("}", "")
    if r"\infty" not in plain and plain != "NaN":
        assert float(plain) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits), abs=1e-12)


def test_intervals_belong_to_their_estimates() -> None:
    names = ["share", "low", "high", "n", "gain", "gain_low", "gain_high"]
    kinds = dict.fromkeys(names, "double") | {"n": "int64"}
    assert interval_columns(names, kinds) == {
        "share": ("low", "high"),
        "gain": ("gain_low", "gain_high"),
    }
    assert interval_columns(["low", "high", "x"], {"low": "double", "high": "double"}) == {}
    # An estimate that has an interval of its own does not take another.
    own = ["gain", "gain_low", "gain_high", "low", "high"]
    assert interval_columns(own, dict.fromkeys(own, "double")) == {
        "gain": ("gain_low", "gain_high")
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"columns": ["x"]}, "no column 'x'; there are relation"),
        ({"columns": []}, "needs a column"),
        ({"digits": 0}, "are 0, not 1 to 17"),
        ({"digits": {"x": 2}}, "no column 'x'"),
        ({"label": "a}b"}, "label is"),
    ],
)
def test_what_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        TABLE.to_latex(**options)  # type: ignore[arg-type]
