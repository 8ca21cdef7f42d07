"""Write the two measured columns of kernels/README.md from what ops.py recorded.

python kernels/benchmarks/fill_readme.py [kernels/benchmarks/results/ops.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).with_name("results") / "ops.json"


def filled(text: str, record: dict) -> str:
    """`text` with the last two cells of each row whose first names a measured kernel replaced."""
    results = {result["name"]: result for result in record["results"]}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        cells = line.strip("|").split(" | ")
        found = results.get(cells[0].strip(" `"))
        if found is None or len(cells) != 6:
            continue
        ratio = found["peer_milliseconds"] / found["milliseconds"]
        cells[4] = f"{found['milliseconds']:.3f} ms, {found['share']:.0%}"
        cells[5] = f"{ratio:.1f}× {found['peer_name']} "
        lines[i] = "|" + " | ".join(cells) + "|"
    return "\n".join(lines) + "\n"


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    README.write_text(
        filled(README.read_text(encoding="utf-8"), json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
