"""Models found in the Hugging Face cache, offline."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

import km
from km.hub import find_snapshot, hub_cache, is_hub_name

TINY = Path(__file__).parent.parent / "golden_data" / "tiny_llama"
COMMIT, OTHER = "a" * 40, "b" * 40
VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache but the test's own, and no network."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket, "socket", None)


def put(cache: Path, commit: str = COMMIT, ref: str | None = "main", org: str = "org") -> Path:
    """A snapshot of the tiny model whose files are links to blobs, as the cache has them."""
    folder = cache / f"models--{org}--tiny"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for i, file in enumerate(sorted(TINY.iterdir())):
        if file.suffix == ".bin":
            continue
        blob = folder / "blobs" / f"{commit[:4]}{i}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    if ref is not None:
        path = folder / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return snapshot


def test_names() -> None:
    for name in ("org/name", "EleutherAI/pythia-70m", "a/b.c_d-1"):
        assert is_hub_name(name)
    for name in (
        "name",
        "/org/name",
        "org/name/file",
        "../name",
        "org/..",
        "./x",
        "org/na me",
        "a//b",
    ):
        assert not is_hub_name(name)


def test_which_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hub_cache() == tmp_path / "home/.cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hub_cache() == Path("/xdg/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/hf")
    assert hub_cache() == Path("/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/cache")
    assert hub_cache() == Path("/cache")


def test_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = put(tmp_path)
    model = km.load("org/tiny")
    assert model.path == str(snapshot)
    assert model.fingerprint == km.load(TINY).fingerprint
    assert model.name == "org/tiny"


def test_revisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    put(tmp_path)
    put(tmp_path, OTHER, "refs/pr/1")
    assert find_snapshot("org/tiny").name == COMMIT
    assert find_snapshot("org/tiny", "refs/pr/1").name == OTHER
    assert find_snapshot("org/tiny", OTHER).name == OTHER
    with pytest.raises(
        km.NotFoundError, match=f"not its revision 'step1000'.*{COMMIT}.*--revision"
    ):
        km.load("org/tiny", revision="step1000")
    for bad in ("../main", "/etc", "a/../b", ""):
        with pytest.raises(km.ArgumentError, match="revision"):
            km.load("org/tiny", revision=bad)
    with pytest.raises(km.ArgumentError, match="Hugging Face cache"):
        km.load(TINY, revision="main")


def test_a_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "cache")
    shutil.copytree(TINY, tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert km.load("org/tiny").path == "org/tiny"


def test_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(km.NotFoundError) as caught:
        km.load("org/absent")
    assert str(tmp_path / "models--org--absent") in str(caught.value)
    assert "hf download org/absent" in str(caught.value)


def test_broken_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = put(tmp_path)
    reference = tmp_path / "models--org--tiny" / "refs" / "main"
    reference.write_text("../../../etc")
    with pytest.raises(km.FormatError, match="holds no commit"):
        km.load("org/tiny")
    reference.write_text(OTHER)
    with pytest.raises(km.NotFoundError, match="not its revision 'main'"):
        km.load("org/tiny")
    reference.write_text(COMMIT)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(km.NotFoundError, match="neither safetensors nor GGUF"):
        km.load("org/tiny")


def test_gguf_snapshots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = put(tmp_path)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "a.gguf").write_bytes(b"GGUF")
    assert find_snapshot("org/tiny") == snapshot / "a.gguf"
    (snapshot / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(km.ArgumentError, match=r"2 GGUF files(.|\n)*a\.gguf(.|\n)*b\.gguf"):
        km.load("org/tiny")
