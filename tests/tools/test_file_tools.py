"""File tools reach the episode's folder and nothing else, whatever path the model writes."""

import os
import threading

import pytest

from agentloop.tools import ToolError, by_name
from agentloop.tools.files import file_tools
from agentloop.tools.folder import Folder


@pytest.fixture
def folder():
    made = Folder(most_bytes=100_000, most_files=20)
    yield made
    made.close()


@pytest.fixture
def tools(folder):
    return by_name(*file_tools(folder))


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("secret", encoding="utf-8")
    return file


def test_what_is_written_is_read(tools):
    assert tools["write_file"].call("notes/a.txt", "Bär") == "4 bytes written"
    assert tools["read_file"].call("./notes//a.txt") == "Bär"
    assert tools["list_files"].call() == "notes/" and tools["list_files"].call("notes") == "a.txt 4"
    tools["write_file"].call("notes/a.txt", "")
    assert tools["read_file"].call("notes/a.txt") == ""


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "..",
        "../secret.txt",
        "a/../../secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "a\0b",
        "/".join("a" * 30),
        "x" * 300,
    ],
)
@pytest.mark.parametrize("tool", ["read_file", "write_file"])
def test_a_path_that_leads_elsewhere(tools, folder, path, tool):
    with pytest.raises(ToolError):
        tools[tool].call(path, *(["text"] if tool == "write_file" else []))
    assert not (folder.path.parent / "secret.txt").exists()


def test_links_are_not_followed(tools, folder, secret):
    (folder.path / "link").symlink_to(secret)
    (folder.path / "folder").symlink_to(secret.parent)
    (folder.path / "proc").symlink_to("/proc/self/root")
    for path in ("link", "folder/secret.txt", f"proc{secret}"):
        with pytest.raises(ToolError):
            tools["read_file"].call(path)
    for path in ("folder/secret.txt", "folder/new.txt", f"proc{secret}"):
        with pytest.raises(ToolError):
            tools["write_file"].call(path, "changed")
    tools["write_file"].call("link", "mine")  # it takes the link's place
    assert secret.read_text(encoding="utf-8") == "secret" and not (folder.path / "link").is_symlink()
    assert [each.name for each in secret.parent.iterdir()] == ["secret.txt"]
    with pytest.raises(ToolError):
        tools["list_files"].call("folder")
    assert "folder (a link)" in tools["list_files"].call()


def test_hard_links_devices_and_pipes_are_not_read(tools, folder, secret):
    os.link(secret, folder.path / "hard")
    os.mkfifo(folder.path / "pipe")
    for path in ("hard", "pipe"):
        with pytest.raises(ToolError, match="no plain file"):
            tools["read_file"].call(path)
    tools["write_file"].call("hard", "changed")
    assert secret.read_text(encoding="utf-8") == "secret"


def test_a_folder_that_becomes_a_link_while_it_is_used(tools, folder, secret):
    """A check of the path's text, or of the path before it is opened, would lose this race."""
    (folder.path / "real").mkdir()
    (folder.path / "real" / "secret.txt").write_text("mine", encoding="utf-8")
    (folder.path / "link").symlink_to(secret.parent)
    ended = threading.Event()

    def swap():
        names = [folder.path / each for each in ("real", "link", "way")]
        while not ended.is_set():
            for target in names[:2]:
                os.rename(target, names[2])
                os.rename(names[2], target)

    thread = threading.Thread(target=swap)
    thread.start()
    read = set()
    try:
        for _ in range(3000):
            for path in ("way/secret.txt", "real/secret.txt", "link/secret.txt"):
                try:
                    read.add(tools["read_file"].call(path))
                except ToolError:
                    pass
    finally:
        ended.set()
        thread.join()
    assert read == {"mine"}


def test_bytes_and_files_are_bounded(tools, folder):
    with pytest.raises(ToolError, match="room for"):
        tools["write_file"].call("large", "x" * 100_001)
    for number in range(20):
        tools["write_file"].call(f"{number}", "x")
    with pytest.raises(ToolError, match="there are 20 files"):
        tools["write_file"].call("more", "x")
    assert len(list(folder.path.iterdir())) == 20


def test_no_text(tools, folder):
    (folder.path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ToolError, match="no text in UTF-8"):
        tools["read_file"].call("bytes")
    with pytest.raises(ToolError, match="there is no gone"):
        tools["read_file"].call("gone")


def test_it_is_gone_with_the_episode(tools, folder):
    tools["write_file"].call("a", "x")
    path = folder.path
    tools["read_file"].close()
    assert not path.exists()
