"""Where compiled code goes when the cache's folder cannot hold it, and the user's own values of the libraries' variables."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentloop import caches, scratch
from agentloop import settings as configuration
from agentloop.child import inherited
from agentloop.serving import compiler, installation
from agentloop.settings import EXPORTED_VARIABLE

COMPILED = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "VLLM_CACHE_ROOT": "vllm"}


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    for name in (*COMPILED, "TRITON_HOME", "HF_HOME", "HF_HUB_OFFLINE", EXPORTED_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def settings(tmp_path, cache="cache"):
    return configuration.load({"paths": {"data": str(tmp_path / "data"), "cache": str(tmp_path / cache)}})


@pytest.mark.parametrize("cache", ["cache", "Größe+1/日本"])
def test_compiled_code_is_in_the_cache_where_that_can_hold_it(tmp_path, cache):
    found = settings(tmp_path, cache).child_environment()
    assert {name: found[name] for name in COMPILED} == {
        name: str(tmp_path / cache / folder) for name, folder in COMPILED.items()
    }
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("cache", ["My Projects/cache", "it's", 'say "x"', "$HOME", "a(b)", "a&b", "a\\b", "a;b"])
def test_compiled_code_is_in_a_private_folder_where_the_cache_cannot_hold_it(tmp_path, cache):
    loaded = settings(tmp_path, cache)
    found = loaded.child_environment()
    root = loaded.compiled
    assert root.parent == tmp_path / "xdg" / "agentloop" and stat.S_IMODE(root.stat().st_mode) == 0o700
    assert {name: found[name] for name in COMPILED} == {name: str(root / folder) for name, folder in COMPILED.items()}
    assert found["HF_HOME"] == str(tmp_path / cache / "hf")
    assert root != settings(tmp_path, f"{cache}2").compiled


def test_a_private_folder_of_somebody_elses_is_not_used(tmp_path):
    (tmp_path / "xdg" / "agentloop").mkdir(parents=True, mode=0o777)
    (tmp_path / "xdg" / "agentloop").chmod(0o777)
    root = settings(tmp_path, "a b").compiled
    assert not root.is_relative_to(tmp_path / "xdg") and caches.fault(root) is None


def test_nothing_else_to_be_had_is_said(tmp_path, monkeypatch):
    """Also no HOME and no temporary folder that would do: vLLM is told the cache, and it is known that it cannot compile."""
    odd = tmp_path / "o d d"
    odd.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(odd))
    monkeypatch.setenv("HOME", str(odd))
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    loaded = settings(tmp_path, "a b")
    assert loaded.compiled == loaded.paths.cache
    vllm, fault = compiler.examine(loaded)
    assert vllm.on_cpu and fault == (
        f"VLLM_CACHE_ROOT = {tmp_path}/a b/vllm: the path holds a space; set it or paths.cache to another folder"
    )


def test_the_users_own_values_stay(tmp_path, monkeypatch):
    loaded = settings(tmp_path)
    theirs = {"TRITON_CACHE_DIR": "/t", "TORCHINDUCTOR_CACHE_DIR": "/i", "VLLM_CACHE_ROOT": "/v", "HF_HOME": "/h"}
    theirs |= {"HF_HUB_OFFLINE": "0"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    assert not theirs.keys() & loaded.child_environment().keys()
    assert {name: inherited(loaded.child_environment())[name] for name in theirs} == theirs


def test_a_more_general_value_of_the_users_decides_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_HOME", "/elsewhere")
    assert "TRITON_CACHE_DIR" not in settings(tmp_path).child_environment()


def test_what_was_exported_is_not_taken_for_the_users(tmp_path, monkeypatch):
    """In this process and in those that it starts, which may have other settings."""
    for name, value in settings(tmp_path, "first").child_environment().items():
        monkeypatch.setenv(name, value)
    assert settings(tmp_path, "second").child_environment()["VLLM_CACHE_ROOT"] == str(tmp_path / "second" / "vllm")


IMPORTED = """
import os, sys
from agentloop.engine import FastLanguageModel
import triton
from huggingface_hub import constants
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(constants.HF_HOME, triton.knobs.cache.dir, cache_dir(), constants.HF_HUB_OFFLINE, sep="\\n")
"""


@pytest.mark.parametrize(
    "given", [{}, {"HF_HOME": "/theirs/hf", "TRITON_CACHE_DIR": "/theirs/triton", "HF_HUB_OFFLINE": "0"}]
)
def test_a_script_that_only_imports_the_engine(tmp_path, given):
    roots = {"AGENTLOOP_PATHS__CACHE": str(tmp_path / "cache"), "AGENTLOOP_PATHS__DATA": str(tmp_path / "data")}
    variables = inherited({**roots, **given})
    run = subprocess.run([sys.executable, "-c", IMPORTED], env=variables, capture_output=True, text=True, timeout=120)
    home, triton, inductor, offline = run.stdout.splitlines()
    assert home == given.get("HF_HOME", f"{tmp_path}/cache/hf")
    assert triton == given.get("TRITON_CACHE_DIR", f"{tmp_path}/cache/triton")
    assert inductor == f"{tmp_path}/cache/inductor"
    assert offline == str(not given)


def test_an_environment_below_a_folder_with_a_space_is_reached_by_a_link(tmp_path):
    """Inductor gives its compiler the folder of torch's libraries as it is."""
    environment = tmp_path / "My Projects" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", environment], check=True)
    here = installation.find(Path(sys.executable))
    library = environment / "lib" / here.name / "site-packages" / "torch" / "__init__.py"
    library.parent.mkdir(parents=True)
    library.touch()
    vllm = replace(here, python=environment / "bin" / "python", prefix=environment, torch=library)
    used = compiler.reachable(vllm, tmp_path / "cache")
    assert caches.fault(used.python) is None and used.torch.samefile(library)
    assert compiler.reachable(vllm, tmp_path / "cache") == used
    ask = "import sys, torch; print(sys.prefix, torch.__file__)"
    said = subprocess.run([used.python, "-c", ask], capture_output=True, text=True, env=inherited({"PYTHONPATH": None}))
    prefix, torch = said.stdout.split()
    assert caches.fault(Path(prefix)) is None and torch == str(used.torch)


def test_temporary_folders_have_names_that_compilers_take(tmp_path, monkeypatch):
    odd = tmp_path / "a b"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    with scratch.directory() as folder:
        assert caches.odd_characters(folder) is None and os.access(folder, os.W_OK)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CXX": "/nowhere/g++"}, "no C++ compiler (/nowhere/g++: No such file or directory); apt install g++ "),
        ({"PATH": "/nowhere"}, "no C++ compiler (g++: No such file or directory); apt install g++ "),
        ({"CXX": "false"}, "false compiles nothing (no output); apt install g++ "),
    ],
)
def test_what_compiling_lacks_is_said_with_its_remedy(tmp_path, changes, said):
    vllm, fault = compiler.examine(settings(tmp_path))
    assert fault is None
    variables = inherited(settings(tmp_path).child_environment()) | changes
    assert compiler.fault(vllm, variables) == f"{said}{vllm.name}-dev"


def test_headers_of_python_are_looked_for(tmp_path):
    vllm, _ = compiler.examine(settings(tmp_path))
    without = replace(vllm, headers=tmp_path / "nowhere")
    said = f"no Python.h in {tmp_path}/nowhere; apt install g++ {vllm.name}-dev"
    assert compiler.fault(without, inherited(settings(tmp_path).child_environment())) == said
