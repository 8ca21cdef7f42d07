"""A data root with Prefect's server and worker up, a vLLM with the tiny model, and a browser."""

import shutil
import tempfile
from pathlib import Path

import pytest
from browser import EXECUTABLE, Browser
from home import Home, free_port

from agentloop.serving.server import ModelServer


@pytest.fixture(scope="session")
def open_folder():
    """A folder that everybody may enter, unlike pytest's own: what is closed in it closes itself."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def home(open_folder):
    """Brought up by a user who has set what would open or break an unwary server."""
    root = open_folder / "data"
    root.mkdir(mode=0o755)  # as an older version made it
    theirs = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{open_folder}/theirs.db",
        "PREFECT_SERVER_API_AUTH_STRING": "known:to-everybody",
        "PREFECT_SERVER_API_BASE_PATH": "/elsewhere",
        "PREFECT_API_KEY": "theirs",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false",
        "PREFECT_UI_SERVE_BASE": "/elsewhere",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "socks5://127.0.0.1:1",
    }
    home = Home(root, free_port(), theirs)
    dotenv = home.project / ".env"
    dotenv.write_text("MINE=1\nPREFECT_API_URL=http://127.0.0.1:1/api\n")
    dotenv.chmod(0o644)
    try:
        home.run("up")
        yield home
    finally:
        home.run("down")


@pytest.fixture(scope="session")
def vllm(home):
    settings = home.settings()
    settings.export()
    with ModelServer(settings, settings.model_directory()) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if EXECUTABLE is None:
        pytest.skip("Chromium is not installed")
    # as after DNS rebinding: a foreign name whose address is this machine's
    with Browser(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP evil.test 127.0.0.1") as browser:
        yield browser
