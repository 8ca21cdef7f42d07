"""Take the pictures of a report: `python docs/pictures/take.py data/reports/demo.html`.

They are of the page that `make demo` ends with, in a headless Chromium, and lie beside this file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "tests" / "report"))

from browser import Browser  # noqa: E402

NEXT_FLIP = "[...document.querySelectorAll('button')].find(each => each.textContent.startsWith('Next flip')).click()"
TO_DIFFERENCE = (
    "document.documentElement.style.scrollBehavior = 'auto', "
    "[...document.querySelectorAll('button')].find(each => each.textContent === 'Go to the first difference').click()"
)
PICTURES = (
    ("report", 1280, 1000, "light", ()),
    ("report", 400, 1500, "light", ()),
    ("report-flip", 1280, 1000, "dark", (NEXT_FLIP, TO_DIFFERENCE)),
)
"""Name, width, height, colours, and what is done before."""


def take(page: Path) -> None:
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        for name, width, height, scheme, actions in PICTURES:
            browser.open(page.resolve().as_uri(), width, height, scheme=scheme)
            while not browser.run("document.body?.dataset.ready === 'true'"):
                time.sleep(0.05)
            for action in actions:
                browser.run(action)
                time.sleep(0.5)  # until what is unpacked is drawn
            browser.screenshot(FOLDER / f"{name}-{width}.png")


if __name__ == "__main__":
    take(Path(sys.argv[1]))
