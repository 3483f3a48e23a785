"""The command ``km``: usage, exit codes, errors in one line, and what each command does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import km
from km.cli import main, make_parser
from km.completion import SHELLS, _walk
from km.loading import locate
from km.table import Table

COMMANDS = [path for path, _ in _walk(make_parser())]
MEASURE = ["measure", "memorization", "--facts", "country_capital_city,adj_antonym"]
MEASURE += ["--per-relation", "4", "--templates", "0"]
KM = [sys.executable, "-m", "km"]


def run(*args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [*KM, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )


def usage(*args: str | Path) -> int:
    """Exit code of a call that argparse ends."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model: km.Model) -> Path:
    """A knowledge base with one run: two relations, four facts each."""
    path = tmp_path_factory.mktemp("cli") / "study.db"
    assert main([*MEASURE, "--kb", str(path)]) == 0
    return path


def counts(path: Path) -> tuple[int, int, int]:
    with km.KnowledgeBase(path, read_only=True) as kb:
        info = kb.info()
    return int(info["runs"]), int(info["chunks"]), int(info["measurements"])


# ---- usage ----


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "km")
def test_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(*path, "--help") == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: km", *path]))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage("--version") == 0
    assert capsys.readouterr().out.startswith(f"km {km.__version__} (CPU variant ")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        "measure",
        "measure memorization --kb x.db",
        "measure memorization --facts all --kb x.db --templates a,b",
        "measure memorization --facts all --kb x.db --per-relation many",
        "draw",
        "draw lens --kb x.db --out x.svg",
        "draw taxonomy --out x.svg",
        "report --out x.html",
        "verify one --kb x.db",
        "verify 1",
        "kb",
        "kb ask",
        "kb search --kb x.db --limit 0 word",
        "completion tcsh",
        "--nothing",
    ],
)
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(*shlex.split(line)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "usage: km" in printed.err


# ---- errors ----


@pytest.fixture
def files(tmp_path: Path, model_path: Path) -> Path:
    """A folder with what can be wrong."""
    with model_path.open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(100_000))
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 10)
    (tmp_path / "noise.db").write_bytes(bytes(range(256)) * 40)
    relation = {"name": "r", "templates": ["{} is in"], "facts": [{"subject": "a"}]}
    (tmp_path / "field.json").write_text(json.dumps(relation))
    (tmp_path / "broken.json").write_text('{"name": ')
    (tmp_path / "empty.json").write_text("[]")
    with km.KnowledgeBase(tmp_path / "empty.db"):
        pass
    return tmp_path


MEASURING = "measure memorization --kb {d}/new.db --facts "


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (MEASURING + "all --model {d}/no.gguf", "no.gguf"),
        (MEASURING + "all --model {d}/cut.gguf", "cut.gguf"),
        (MEASURING + "all --model {d}/noise.gguf", "noise.gguf"),
        (MEASURING + "all --model smollm9", "smollm9"),
        (MEASURING + "{d}/field.json", "answers"),
        (MEASURING + "{d}/field.json", "field.json"),
        (MEASURING + "{d}/broken.json", "broken.json"),
        (MEASURING + "{d}/empty.json", "empty.json"),
        (MEASURING + "country_capitol", "country_capitol"),
        (MEASURING + "adj_antonym --templates 99", "99"),
        (MEASURING + "adj_antonym --per-relation 0", "per_relation"),
        (MEASURING + "adj_antonym --max-candidates 1", "max_candidates"),
        ("measure memorization --kb {d}/noise.db --facts adj_antonym", "noise.db"),
        ("measure memorization --kb {d}/no/new.db --facts adj_antonym", "new.db"),
        ("kb info --kb {d}/no.db", "no.db"),
        ("kb info --kb {d}/noise.db", "noise.db"),
        ("kb ask contradicted --kb {d}/empty.db", "contradicted"),
        ("kb query 'DELETE FROM runs' --kb {d}/empty.db", "only reading"),
        ("kb query 'SELECT nothing FROM runs' --kb {d}/empty.db", "nothing"),
        ("report {d}/empty.db --runs 7 --out {d}/x.html", "run 7"),
        ("report {d}/no.db --out {d}/x.html", "no.db"),
        ("draw recall --kb {d}/empty.db --out {d}/x.svg", "recall run"),
        ("draw taxonomy --kb {d}/empty.db --out {d}/x.gif", "x.gif"),
        ("draw taxonomy --kb {d}/empty.db --out {d}/no/x.svg", "x.svg"),
        ("verify 7 --kb {d}/empty.db", "run 7"),
    ],
)
def test_error(line: str, named: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line.format(d=files))) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("km: ") and printed.err.count("\n") == 1
    assert named in printed.err
    assert not (files / "x.svg").exists() and not (files / "x.html").exists()


def test_error_in_a_process(files: Path) -> None:
    done = run("kb", "info", "--kb", files / "noise.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("km: ") and done.stderr.count("\n") == 1


# ---- commands ----


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "smollm2" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"smollm2", "gemma3"} <= {row["name"] for row in rows}


def test_measure_again_measures_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = counts(study)
    begin = time.process_time()
    assert main([*MEASURE, "--kb", str(study)]) == 0
    assert time.process_time() - begin < 10
    assert "recorded as run 1 in" in capsys.readouterr().out
    assert counts(study) == before == (1, 4, 16)


def test_measure_json(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MEASURE, "--kb", str(study), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["relation"] for row in rows] == ["country_capital_city", "adj_antonym"]
    assert all(row["n"] == 4 and 0 <= row["commonest"] <= 1 for row in rows)
    assert all(row["random_init"] is not None for row in rows)


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "dot"])
@pytest.mark.parametrize("picture", ["taxonomy", "recall", "lens"])
def test_draw(
    picture: str, suffix: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"{picture}.{suffix}"
    about = ["--kb", str(study)]
    if picture == "lens":
        about = ["--prompt", "The capital of Japan is the city of", "--answer", " Tokyo"]
    assert main(["draw", picture, *about, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}
    assert out.read_bytes().lstrip().startswith((begins[suffix], b"<svg", b"graph", b"strict"))


def test_report(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(study), "--runs", "1", "-o", str(out)]) == 0
    page = out.read_text("utf-8")
    assert "country_capital_city" in page and page.rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == [out]


def test_kb(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(study)
    assert main(["kb", "info", "--kb", file, "--json"]) == 0
    assert int(json.loads(capsys.readouterr().out)["runs"]) == 1
    assert main(["kb", "check", "--kb", file]) == 0
    assert capsys.readouterr().out == f"{file}: sound\n"
    assert main(["kb", "search", "memorization", "--kb", file, "--json"]) == 0
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())
    sql = "SELECT count(*) AS n FROM runs WHERE measure = ?"
    assert main(["kb", "query", sql, "memorization.recall", "--kb", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 1}
    assert main(["kb", "ask", "runs", "--kb", file]) == 0
    assert "measure: memorization.recall" in capsys.readouterr().out
    assert main(["kb", "ask", "--list"]) == 0
    assert "contradicted-hypotheses" in capsys.readouterr().out


# ---- verify ----


def test_verify_agrees(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "1", "--kb", str(study)]) == 0
    assert capsys.readouterr().out.startswith("run 1 agrees: 8 rows measured again, 0 beyond ")


def test_verify_a_lens(model: km.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with km.KnowledgeBase(tmp_path / "lens.db") as kb:
        run_id = kb.record(model.lens("The capital of Japan is the city of", " Tokyo"))
    assert main(["verify", str(run_id), "--kb", str(tmp_path / "lens.db")]) == 0
    layers = int(model.config["n_layers"]) + 1
    assert f"agrees: {layers} rows measured again, 0 beyond" in capsys.readouterr().out


def test_verify_another_measure(
    model: km.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with km.KnowledgeBase(tmp_path / "v.db") as kb:
        run_id = kb.record(km.verbatim(model, "To be, or not to be, that is the question."))
    assert main(["verify", str(run_id), "--kb", str(tmp_path / "v.db")]) == 1
    assert "memorization.verbatim" in capsys.readouterr().err


def test_verify_finds_another_value(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base in which one log-probability was recorded 0.001 nats off."""
    with km.KnowledgeBase(study, read_only=True) as kb:
        recall = km.Recall.from_knowledge_base(kb, 1)
    key, table = recall.chunks[0]
    rows = list(table.rows())
    rows[2]["logp"] += 0.001
    recall.chunks[0] = key, Table.from_rows(table.columns, rows)
    recall.run = None
    with km.KnowledgeBase(tmp_path / "off.db") as kb:
        kb.record(recall)
    assert main(["verify", "1", "--kb", str(tmp_path / "off.db")]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("run 1 DIFFERS: 8 rows measured again, 1 beyond ")
    assert "largest difference 1.00e-03 nats" in printed and "fingerprint" not in printed


def test_verify_finds_another_model(
    study: Path, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed.gguf"
    shutil.copyfile(model_path, changed)
    with changed.open("r+b") as file:  # a few weights at the end of the last tensor
        file.seek(-64, os.SEEK_END)
        file.write(bytes(range(64)))
    assert main(["verify", "1", "--kb", str(study), "--model", str(changed)]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed and printed.endswith("the model has another fingerprint\n")


def test_verify_finds_another_tokenizer(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        other = locate("gemma3")
    except km.NotFoundError as error:
        pytest.skip(str(error))
    assert main(["verify", "1", "--kb", str(study), "--model", str(other)]) == 1
    assert "DIFFERS: the model has another tokenizer" in capsys.readouterr().out


def test_verify_without_the_model_file(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(study) as db:
        db.execute("VACUUM INTO ?", [str(copy)])
    with sqlite3.connect(copy) as db:
        db.execute("UPDATE models SET path = '/gone/model.gguf'")
    assert main(["verify", "1", "--kb", str(copy)]) == 1
    assert "/gone/model.gguf" in capsys.readouterr().err


# ---- stopping ----


def chunks(path: Path) -> list[tuple[int, str]]:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return db.execute("SELECT id, stored FROM chunks ORDER BY id").fetchall()
    except sqlite3.OperationalError:
        return []


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "stopped.db"
    names = "country_capital_city,country_currency,food_from_country,verb_past_tense"
    command = [*KM, "measure", "memorization", "--facts", names, "--per-relation", "8"]
    command += ["--templates", "0", "--kb", str(path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background has SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not chunks(path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "km: stopped; what was finished is kept" in err and "Traceback" not in err
    kept = chunks(path)
    assert 1 <= len(kept) < 8
    with km.KnowledgeBase(path) as kb:
        assert kb.sql("SELECT status FROM runs")["status"] == ["cancelled"]
    again = run(*command[3:])
    assert again.returncode == 0, again.stderr
    assert chunks(path)[: len(kept)] == kept and len(chunks(path)) == 8
    assert "recorded as run 2 in" in again.stdout


def test_output_into_head(study: Path) -> None:
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
    query += "SELECT i, 'row of a long answer' AS text FROM n"
    line = shlex.join([*KM, "kb", "query", query, "--kb", str(study), "--json"]) + " | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout)["i"] == 1
    assert (done.returncode, done.stderr) == (0, "")


# ---- completion ----


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_script_is_valid(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / f"km.{shell}"
    script.write_text(capsys.readouterr().out)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (
            "km ''",
            {"demo", "measure", "diff", "train", "draw", "report", "kb", "verify", "models"}
            | {"cite", "completion", "conflict", "dialog", "forecast", "study"},
        ),
        ("km measure ''", {"memorization"}),
        (
            "km kb ''",
            {"info", "search", "query", "ask", "ledger", "datasette"}
            | {"check", "export", "merge", "snapshot", "taxonomy", "upgrade"},
        ),
        (
            "km kb taxonomy ''",
            {"add", "work", "link", "move", "import", "export", "conflicts"},
        ),
        ("km --version kb a", {"ask"}),
        ("km draw lens --p", {"--prompt"}),
        ("km verify 3 --k", {"--kb"}),
        ("km completion ''", {"bash", "zsh", "fish"}),
        ("km nothing --v", {"--version"}),
        ("km completion x", set()),
    ],
)
def test_completion_offers(words: str, offered: set[str]) -> None:
    at = len(shlex.split(words)) - 1
    line = f"source <({shlex.join(KM)} completion bash); COMP_WORDS=({words}); COMP_CWORD={at}; "
    line += '_km_complete; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True
    )
    found = {word for word in done.stdout.split() if not word.startswith("-") or "--" in words}
    assert found == offered
