"""A hostile web page, in a real browser, against the real servers: it makes nothing and reads nothing."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from home import free_port

SCRIPT = Path(__file__).with_name("hostile_page.js").read_text()
ORIGINS = (
    pytest.param("another port", marks=pytest.mark.slow),
    "rebound name",
    pytest.param("null", marks=pytest.mark.slow),
)
FRAME = """new Promise((resolve) => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-forms";
  frame.srcdoc = "<script>" + ATTACK + ".then((found) => parent.postMessage(found, '*'))</" + "script>";
  onmessage = (message) => resolve(message.data);
  document.documentElement.append(frame);
})"""
"""Runs the attack in a sandbox, whose origin is null."""
PREFECT_READS = (
    "/api/health",
    "/api/version",
    "/api/admin/settings",
    "/api/csrf-token?client=x",
    "/openapi.json",
    "/ui-settings",
    "/",
)
PREFECT_SOCKETS = (
    "/api/events/in",
    "/api/events/out",
    "/api/logs/out",
    "/api/task_runs/subscriptions/scheduled",
    "/api/work_pools/agentloop/workers/connect",
)


def prefect_writes(deployments: list[str]) -> list[tuple[str, dict]]:
    tag = uuid.uuid4().hex[:8]
    return [
        ("/api/flows/", {"name": f"owned-{tag}"}),
        ("/api/variables/", {"name": f"owned_{tag}", "value": "1"}),
        ("/api/work_pools/", {"name": f"owned-{tag}", "type": "process"}),
        ("/api/events", [an_event(tag)]),
        *((f"/api/deployments/{each}/create_flow_run", {}) for each in deployments),
        *(
            (f"/api/deployments/{each}/schedules", [{"active": True, "schedule": {"interval": 60}}])
            for each in deployments
        ),
        *((f"/api/deployments/{each}/pause_deployment", {}) for each in deployments),
        ("/api/flows/filter", {}),
    ]


def an_event(name: str) -> dict:
    now = datetime.now(UTC).isoformat()
    return {
        "id": str(uuid.uuid4()),
        "occurred": now,
        "event": f"owned.{name}",
        "resource": {"prefect.resource.id": "owned"},
    }


def greetings() -> list[list[dict]]:
    """First words on a WebSocket: an event at once, or a guess at the key and then what each route wants."""
    filters = {"type": "filter", "filter": {}}
    return [
        [an_event("socket"), filters, {"type": "subscribe", "keys": ["x"], "client_id": "x"}],
        [{"type": "auth", "token": None}, an_event("guessed")],
        [{"type": "auth", "token": "agentloop:"}, filters, an_event("guessed")],
    ]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The address of a page on another port."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path_factory.mktemp("page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def visit(browser, elsewhere):
    """Let the hostile page run against a port, from one of ORIGINS; returns what it read and how it fared."""

    def run(origin, port, reads, writes, sockets, first_words):
        rebound = origin == "rebound name"
        name = "evil.test" if rebound else "127.0.0.1"
        browser.open(f"http://evil.test:{port}/" if rebound else elsewhere, 800)
        arguments = ", ".join(map(json.dumps, (f"http://{name}:{port}", reads, writes, sockets, first_words)))
        attack = f"({SCRIPT})({arguments})"
        if origin == "null":
            attack = FRAME.replace("ATTACK", json.dumps(attack))
        found = browser.run(attack)
        origins = {"another port": elsewhere.rstrip("/"), "rebound name": f"http://evil.test:{port}", "null": "null"}
        assert found["origin"] == origins[origin]
        return found

    return run


def state(api: httpx.Client) -> dict[str, list]:
    """What a page could have changed on a Prefect server."""
    everything = {
        name: api.post(f"/{name}/filter", json={}).raise_for_status().json()
        for name in ("flows", "deployments", "flow_runs", "work_pools", "variables")
    }
    kept = ("id", "name", "paused", "schedules", "value", "type")
    found = {
        name: sorted(str({k: row[k] for k in kept if k in row}) for row in rows) for name, rows in everything.items()
    }
    events = api.post("/events/filter", json={"filter": {"event": {"prefix": ["owned"]}}}).raise_for_status().json()
    return found | {"events": sorted({event["event"] for event in events["events"]})}


def after_events(api: httpx.Client) -> dict[str, list]:
    time.sleep(3)  # events are stored in batches
    return state(api)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """Prefect's own `prefect server start`, with nothing set."""
    folder, port = tmp_path_factory.mktemp("open"), free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            cwd=folder,
            env=clean | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", trust_env=False, timeout=30) as api:
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    if api.get("/health").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            api.post("/work_pools/", json={"name": "agentloop", "type": "process"}).raise_for_status()
            yield port, api
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_page_owns_an_open_server(open_server, visit, origin):
    """Otherwise the tests below could not fail."""
    port, api = open_server
    before = state(api)
    attack = visit(origin, port, PREFECT_READS, prefect_writes([]), PREFECT_SOCKETS, greetings())
    after = after_events(api)
    for kind in ("flows", "deployments", "flow_runs", "work_pools", "variables"):
        assert len(after[kind]) > len(before[kind]), (kind, "\n".join(attack["notes"]))
    assert {"owned.socket", "owned.guessed"} < set(after["events"]), "\n".join(attack["notes"])
    assert len({name for name, _ in attack["read"]}) > 8


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_page_gets_nothing_from_prefect(home, visit, origin):
    with home.prefect() as api:
        before = state(api)
        deployments = [row["id"] for row in api.post("/deployments/filter", json={}).json()]
        assert len(deployments) >= 3
        attack = visit(origin, home.port, PREFECT_READS, prefect_writes(deployments), PREFECT_SOCKETS, greetings())
        assert after_events(api) == before
    assert before["events"] == [] and not any("owned" in text for texts in before.values() for text in texts)
    assert attack["read"] == []
    assert not [note for note in attack["notes"] if note.endswith(": open")]


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_page_gets_nothing_from_vllm(vllm, visit, origin):
    def counted() -> dict[str, str]:
        proof = {"Authorization": f"Bearer {vllm.api_key}"}
        text = httpx.get(f"{vllm.url}/metrics", headers=proof, trust_env=False).raise_for_status().text
        counters = ("vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:lora_requests")
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(counters))

    before = counted()
    assert before
    prompt = {"model": "base", "prompt": [2, 3], "max_tokens": 1}
    attack = visit(
        origin,
        vllm.port,
        ("/health", "/ping", "/version", "/metrics", "/load", "/v1/models", "/openapi.json", "/docs", "/server_info"),
        [
            *((path, prompt) for path in ("/v1/completions", "/invocations", "/tokenize", "/inference/v1/generate")),
            ("/v1/load_lora_adapter", {"lora_name": "owned", "lora_path": "/tmp"}),
            ("/sleep", {}),
        ],
        ("/v1/realtime",),
        greetings(),
    )
    assert attack["read"] == []
    assert not [note for note in attack["notes"] if note.endswith(": open")]
    assert counted() == before


def test_the_link_opens_the_ui_and_nothing_else_does(home, browser):
    """The link's key stays in the browser; a wrong one is not kept, so no page can lock the user out with it."""
    address = f"http://127.0.0.1:{home.port}"

    def shows(words: str, seconds: float = 30) -> str:
        end = time.monotonic() + seconds
        while words not in (text := browser.run("document.body?.innerText ?? ''")) and time.monotonic() < end:
            time.sleep(0.2)
        return text

    browser.open(f"{address}/enter#wrong", 1200)
    assert "This is not the key" in shows("This is not the key")
    assert browser.run("localStorage.getItem('prefect-password')") is None
    browser.open(address, 1200)
    assert "Password" in shows("Password") or "/login" in browser.run("location.href")

    (line,) = [line for line in home.run("status", code=2).splitlines() if line.startswith("Prefect UI")]
    link = line.split(": ", 1)[1]
    assert link.startswith(f"{address}/enter#")
    browser.open(link, 1200)
    assert "Deployments" in shows("Deployments")
    key = link.partition("#")[2]
    assert key not in browser.run("location.href + document.documentElement.outerHTML")
    assert not [fault for fault in browser.faults if key in fault and not fault.startswith(f"{address}/enter")]
    log = (home.root / "logs" / "prefect-server.log").read_text(errors="replace")
    assert key not in log

    # from then on a link to a run works
    with home.prefect() as api:
        flow = api.post("/flows/", json={"name": "shown"}).json()
        run = api.post("/flow_runs/", json={"flow_id": flow["id"], "name": "shown-run"}).json()
    browser.open(f"{address}/runs/flow-run/{run['id']}", 1200)
    assert "shown-run" in shows("shown-run")
