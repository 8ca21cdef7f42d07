"""The canary command on an adapter that a campaign trained: on the base that it was trained on, and on the original."""

import re

import pytest
from home import SMALL


@pytest.mark.slow
def test_both_bases(home):
    adapter = home.rows("SELECT id FROM adapters ORDER BY id")[0][0]
    output = home.run("canary", adapter, "--profile", "demo", *SMALL)
    gaps = {base: float(mean) for base, mean in re.findall(r"(dequantised|original) +([\d.e-]+)", output)}
    assert gaps["dequantised"] < 1e-3 < 10 * 1e-3 < gaps["original"]
    assert "dequantised: served as trained\n" in output
    assert re.search(r"^original: another base: .* \(for comparison\)$", output, re.MULTILINE)
