"""`agentloop export --push`: what a hub is sent, by the hub's own client, and that it is asked for nothing otherwise."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from agentloop.errors import ModelError, SettingError
from agentloop.fetching import hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload of small files asks for."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        lines = [json.loads(line) for line in body.splitlines() if line]
        if self.path == "/api/repos/create":
            answer = {"url": f"{self.server.address}/{lines[0].get('organization', 'me')}/{lines[0]['name']}"}
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in lines[0]["files"]
            ]
            answer = {"files": files}
        elif self.path.endswith("/commit/main"):
            address = f"{self.server.address}/me/mine/commit/{'0' * 40}"
            answer = {"commitUrl": address, "commitOid": "0" * 40, "success": True}
        else:
            answer = {"warnings": [], "errors": []}
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def there(monkeypatch):
    """A hub on loopback, which notes what it is asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.status = [], 200
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n# It\n", encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0weights")
    return tmp_path


def test_everything_is_sent_to_a_private_repository(there, directory):
    address = hub.push(directory, "me/mine", "hf_secret")
    assert address == f"{there.address}/me/mine" and constants.HF_HUB_OFFLINE
    assert {proof for _, proof, _ in there.asked} == {"Bearer hf_secret"}
    [made] = [json.loads(body) for path, _, body in there.asked if path == "/api/repos/create"]
    assert (made.get("private") is True or made.get("visibility") == "private") and made["name"] == "mine", made
    [commit] = [body for path, _, body in there.asked if path == "/api/models/me/mine/commit/main"]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in map(json.loads, commit.splitlines())
        if line["key"] == "file"
    }
    assert files == {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_hub_that_refuses(there, directory):
    there.status = 403
    with pytest.raises(ModelError, match=r"^me/mine: the hub did not take it: .*403") as refused:
        hub.push(directory, "me/mine", "hf_secret")
    assert "hf_secret" not in str(refused.value) and "\n" not in str(refused.value)
    assert constants.HF_HUB_OFFLINE


def test_the_token_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(SettingError, match="--push: .* HF_TOKEN"):
        hub.token()
    login = tmp_path / ".cache" / "huggingface" / "token"
    login.parent.mkdir(parents=True)
    login.write_text("hf_login\n")
    assert hub.token() == "hf_login"
    monkeypatch.setenv("HF_TOKEN", "hf_set")
    assert hub.token() == "hf_set"
