"""Names as people write them: which directory of the models' root or of the hub's cache they mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agentloop.engine import FastLanguageModel
from agentloop.errors import ModelError, SettingError
from agentloop.model_directory.lookup import hub_caches, located

PLAIN, PACKED = {"model_type": "gemma3n_text"}, {"model_type": "gemma3n_text", "quantization_config": {}}


def directory(path: Path, config: dict = PLAIN, repository: str | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if repository:
        (path / "agentloop_hub.json").write_text(json.dumps({"repository": repository}))
    return path


def cached(cache: Path, repository: str, commit: str = "c0ffee", branch: str = "main", config: dict = PLAIN) -> Path:
    """As the hub's client lays it out: a snapshot of links to blobs, and a reference to it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob, snapshot = folder / "blobs" / f"{commit}-config", folder / "snapshots" / commit
    for each in (blob.parent, snapshot, folder / "refs"):
        each.mkdir(parents=True, exist_ok=True)
    blob.write_text(json.dumps(config))
    (snapshot / "config.json").symlink_to(blob)
    (folder / "refs" / branch).write_text(commit)
    return snapshot


@pytest.fixture
def models(tmp_path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """The hub's cache, and no other."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "hf" / "hub"


ASKED = [
    "google/gemma-3n-E4B-it", "google/gemma-3n-e4b-it", "gemma-3n-e4b-it", "GEMMA-3N-E4B-IT", "unsloth/gemma-3n-E4B-it",
    "Unsloth/Gemma-3n-e4b-it", "unsloth/gemma-3n-E4B-it-unsloth-bnb-4bit", "gemma-3n-E4B-it-bnb-4bit",
]  # fmt: skip
NOT_MEANT = [
    "google/gemma-3n-E4B", "google/gemma-3n-E2B-it", "someone/gemma-3n-E4B-it", "unsloth/gemma-3n-E4B-it-GGUF",
    "google/gemma-3n-E4B-it-bnb-4bit", "google/gemma-3n-E4B-it-qat",
]  # fmt: skip


@pytest.mark.parametrize("place", ["gemma-3n-E4B-it", "google/gemma-3n-E4B-it", "unsloth/gemma-3n-E4B-it"])
def test_in_any_spelling(models, place):
    wanted = directory(models / place)
    directory(models / "gemma-3n-E4B")
    directory(models / "someone" / "gemma-3n-E2B-it")
    for name in ASKED:
        assert located(name, models) == wanted, name
    for name in NOT_MEANT:
        if name != "google/gemma-3n-E4B":
            with pytest.raises(ModelError, match="download it: agentloop fetch"):
                located(name, models)
    with pytest.raises(ModelError):
        located(ASKED[1], models, exact=True)


@pytest.mark.parametrize("repository", ["google/gemma-3n-E4B-it", "unsloth/gemma-3n-E4B-it"])
def test_in_the_hubs_cache(models, hub, repository, tmp_path, monkeypatch):
    wanted = cached(hub, repository)
    cached(hub, "someone/gemma-3n-E4B-it", "abad1dea")
    for name in ASKED:
        assert located(name, models) == wanted, name
    assert located("someone/Gemma-3n-E4B-it", models).name == "abad1dea"
    directory(models / "gemma-3n-E4B-it")
    assert located(ASKED[1], models).parent == models  # which comes first
    newer = cached(hub, repository, "decade", branch="refs-test")
    assert located(ASKED[1], models, revision="refs-test") == newer
    assert located(ASKED[1], models, revision="c0ffee") == wanted
    with pytest.raises(ModelError, match="revision 'v9'"):
        located(ASKED[1], models, revision="v9")
    monkeypatch.delenv("HF_HOME")
    own = cached(tmp_path / "home" / "huggingface" / "hub", "google/gemma-3-1b-it")
    assert located("gemma-3-1b-it", models) == own
    assert hub_caches() == [tmp_path / "home" / "huggingface" / "hub"]
    assert located("gemma-3n-e4b-it", models / "none", hub_cache=hub).parents[2] == hub


def test_packed_or_not(models):
    packed = directory(models / "gemma-3n-E4B-it-unsloth-bnb-4bit", PACKED, "unsloth/gemma-3n-E4B-it-unsloth-bnb-4bit")
    for name in ASKED:
        assert located(name, models) == packed, name
    with pytest.raises(ModelError, match="agentloop fetch google/gemma-3n-e4b-it"):
        located("google/gemma-3n-e4b-it", models, in_4bit=False)
    plain = directory(models / "gemma-3n-E4B-it")
    assert located("google/gemma-3n-e4b-it", models) == plain
    assert located("unsloth/gemma-3n-e4b-it-unsloth-bnb-4bit", models) == packed


def test_where_it_was_downloaded_from_counts(models):
    """A directory that `agentloop fetch` made of somebody's model is not Google's."""
    directory(models / "gemma-3n-E4B-it", repository="someone/gemma-3n-E4B-it")
    with pytest.raises(ModelError, match="agentloop fetch google/gemma-3n-E4B-it"):
        located("google/gemma-3n-E4B-it", models)
    assert located("SomeOne/gemma-3n-e4b-it", models)


def test_two_that_are_equally_meant(models):
    for name in ("gemma-3n-E4B-it", "Gemma-3N-e4b-it"):
        directory(models / name)
    with pytest.raises(ModelError, match="could be .* or .*; give the directory"):
        located("GEMMA-3n-e4b-it", models)
    assert located("google/Gemma-3N-e4b-it", models).name == "Gemma-3N-e4b-it"
    own = directory(models / "google" / "gemma-3n-e4b-it")
    assert located("google/gemma-3n-e4b-it", models) == own


@pytest.mark.parametrize("name", ["/nowhere/gemma", "./gemma", "a/b/c", "~/gemma", "gemma 3"])
def test_a_path_is_no_name(models, name):
    with pytest.raises(ModelError) as error:
        located(name, models)
    assert str(error.value).startswith(f"{name}: no such directory") and "nothing is downloaded" in str(error.value)


def test_loading_by_name(checkpoint, cache, models, hub, monkeypatch):
    monkeypatch.setenv("AGENTLOOP_PATHS__MODELS", str(models))
    shutil.copytree(checkpoint, models / "gemma-3n-E4B-it")
    for name in ("google/gemma-3n-e4b-it", "unsloth/gemma-3n-E4B-it-unsloth-bnb-4bit"):
        model, _ = FastLanguageModel.from_pretrained(name, cache_directory=cache)
        assert model.directory == models / "gemma-3n-E4B-it"
    with pytest.raises(ModelError, match="agentloop fetch google/gemma-3n-E2B-it"):
        FastLanguageModel.from_pretrained("google/gemma-3n-E2B-it", cache_directory=cache)
    with pytest.raises(ModelError, match="of the revision 'v2'"):
        FastLanguageModel.from_pretrained("gemma-3n-E4B-it", revision="v2", cache_directory=cache)
    with pytest.raises(SettingError, match="^revision: "):
        FastLanguageModel.from_pretrained(checkpoint, revision="v2", cache_directory=cache)

    snapshot = cached(hub, "google/gemma-3-270m")
    (snapshot / "config.json").unlink()
    shutil.copytree(checkpoint, snapshot, dirs_exist_ok=True)
    model, _ = FastLanguageModel.from_pretrained("unsloth/gemma-3-270m", cache_directory=cache)
    assert model.directory == snapshot
