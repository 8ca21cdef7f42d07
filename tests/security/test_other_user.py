"""Another user of this machine, without the key: gets no answer, reads no file, reaches no socket."""

import http.client
import json
import os
import socket
import stat
from pathlib import Path

import psutil
import pytest

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def as_another_user(ask):
    """The JSON value of `ask()`, called by a copy of this process that has become another user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = json.dumps(ask()).encode()
        except BaseException as error:
            answer = json.dumps(f"{type(error).__name__}: {error}").encode()
        os.close(reader)
        with open(writer, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def opened(paths, actions=()) -> dict[str, str]:
    """What of these files and folders can be listed, read, written or connected to, or suffers one of the other actions."""
    ways = (os.listdir, lambda path: path.read_bytes(), lambda path: os.close(os.open(path, os.O_WRONLY)), _connect)
    got = {}
    for path in paths:
        for number, way in enumerate((*ways, *actions)):
            try:
                way(path)
                got[str(path)] = number
            except OSError:
                pass
    return got


def _connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))


def _harm(path: Path) -> None:
    path.chmod(0o777)


def _replace(path: Path) -> None:
    path.rename(path.with_name("taken"))


def answers(port: int, paths, headers=None) -> dict[str, int]:
    """Status of a GET and a POST of each path."""
    got = {}
    for path in paths:
        for method in ("GET", "POST"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, body="{}", headers=headers or {})
            got[f"{method} {path}"] = connection.getresponse().status
            connection.close()
    return got


def said_to_anyone(port: int) -> bytes:
    """What a port says to somebody who has only connected, and spoken HTTP to it."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        try:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return connection.recv(4096)
        except OSError:
            return b""


def family(pid: int) -> list[psutil.Process]:
    """Every process in the session of the one that has this id."""
    session = os.getsid(pid)
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                members.append(process)
        except ProcessLookupError:
            continue
    return members


def services(home) -> list[psutil.Process]:
    pids = [json.loads((home.root / "services" / f"{name}.json").read_text())["pid"] for name in ("server", "worker")]
    return [process for pid in pids for process in family(pid)]


def test_files(home, vllm, open_folder):
    dotenv = home.project / ".env"
    (command,) = psutil.Process(vllm._child.pid).children()
    temporary = Path(command.environ()["TMPDIR"])
    sockets = [path for path in temporary.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
    assert opened(sockets), "vLLM's sockets are not where they are looked for"
    files = [
        *(home.root / name for name in ("services/key", "services/server.json", "prefect/prefect.db", "logs", "cache")),
        home.root,
        dotenv,
        temporary,
    ]
    assert set(opened(files)) == set(map(str, files)), "this user can open them all"
    assert as_another_user(lambda: opened([open_folder])) == {str(open_folder): 0}, "the way to them is open"
    assert as_another_user(lambda: opened([*files, *sockets], (_harm, _replace))) == {}
    # closed by themselves, too, and not only by the folder above
    for path in (home.root / "services" / "key", dotenv, home.root / "prefect" / "prefect.db"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert not list(open_folder.glob("theirs.db*")), (
        "Prefect wrote into the database that the user has for something else"
    )


def test_processes(home, vllm):
    key = (home.root / "services" / "key").read_text()
    processes = [*services(home), *family(vllm._child.pid)]
    assert len(processes) >= 4

    def environments() -> list[str]:
        return [text for each in processes if (text := _read(f"/proc/{each.pid}/environ"))]

    assert any(key in text for text in environments())
    assert as_another_user(environments) == []
    for process in processes:
        arguments = " ".join(process.cmdline())
        assert key not in arguments and vllm.api_key not in arguments


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def test_ports(home, vllm):
    """Of every process that was started: each port that it listens on, whoever it is meant for."""
    paths = ("/api/flows/filter", "/api/deployments/", "/api/admin/settings", "/api/version", "/docs", "/openapi.json")
    guesses = [None, {"Authorization": "Basic YWdlbnRsb29wOg=="}, {"Authorization": "Bearer "}]
    for guess in guesses:
        refused = as_another_user(lambda guess=guess: answers(home.port, paths, guess))
        assert len(refused) == 2 * len(paths) and set(refused.values()) == {401}, refused
        paths_of_vllm = ("/v1/models", "/v1/completions", "/invocations", "/tokenize", "/metrics", "/version", "/ping")
        refused = as_another_user(lambda guess=guess: answers(vllm.port, paths_of_vllm, guess))
        assert set(refused.values()) == {401}, refused

    listening = [
        connection.laddr
        for process in (*services(home), *family(vllm._child.pid))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {home.port, vllm.port} <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    for port in {address.port for address in listening}:
        said = bytes(as_another_user(lambda port=port: list(said_to_anyone(port))))
        if port == home.port:
            assert b"<!DOCTYPE html>" in said or b"200 OK" in said  # the UI's own files, which hold no secret
        elif port == vllm.port:
            assert said.startswith(b"HTTP/1.1 401 ")
        else:
            assert said == b""
    assert vllm.alive()
