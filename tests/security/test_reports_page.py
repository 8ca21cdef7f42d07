"""Reports on the Prefect server: for those who have the key, in a frame that can read nothing of the UI."""

import time

import httpx
import pytest

from agentloop_flows import connection, key

EVIL = """<!doctype html><title>r</title><p id="text">A report</p><a href="other.html">other</a>
<script>
  let key = "hidden";
  try { key = localStorage.getItem("prefect-password"); } catch { }
  document.getElementById("text").textContent = "A report that sees " + key;
  parent.postMessage(document.getElementById("text").textContent + " " + document.querySelector("a").getAttribute("href"), "*");
</script>"""
"""A report that a model's words have broken out of, should that ever be possible."""
HEARD = """new Promise((resolve) => {
  onmessage = (message) => resolve(message.data);
  setTimeout(() => resolve(document.getElementById("said").textContent), 8000);
  show();
})"""


@pytest.fixture(scope="module")
def reports(home):
    folder = home.settings().paths.reports
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evil.html").write_text(EVIL)
    (folder / "secret.txt").write_text("secret")
    return folder


def get(home, path, **headers):
    return httpx.get(f"http://127.0.0.1:{home.port}{path}", headers=headers, trust_env=False)


def test_only_pages_and_only_with_the_key(home, reports):
    proof = {"Authorization": key.authorization(key.credentials(home.settings()))}
    assert get(home, "/reports/evil.html").status_code == 401
    assert get(home, "/reports/evil.html", **proof).text == EVIL
    (reports.parent / "outside.html").write_text("outside")
    for name in (
        "secret.txt",
        "..%2Foutside.html",
        "%2e%2e/outside.html",
        "gone.html",
        "",
        "EVIL.html",
    ):
        answer = get(home, f"/reports/{name}", **proof)
        assert answer.status_code in (404, 307) and "outside" not in answer.text, name
    loader = get(home, "/report")
    assert loader.status_code == 200 and "sandbox" in loader.text and "A report" not in loader.text


def test_in_the_browser(home, reports, browser):
    settings = home.settings()
    address = connection.report_page(settings, reports / "evil.html")
    assert address == f"http://127.0.0.1:{home.port}/report#evil.html"
    browser.open(address, 800)
    browser.run("localStorage.clear()")  # another test may have opened the UI
    browser.open(address, 800)
    deadline = time.monotonic() + 60
    while "needs the key" not in (said := browser.run("document.getElementById('said').textContent")):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    browser.open(connection.entrance(settings), 800)
    while not browser.run("localStorage.getItem('prefect-password')"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    browser.open(address, 800)
    assert browser.run(HEARD) == "A report that sees hidden /report#other.html"
