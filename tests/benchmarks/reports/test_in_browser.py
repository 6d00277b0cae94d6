"""Reports load in a browser without a word on its console, and are no wider than a phone or a desktop."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, DESKTOP, PHONE, opened

from hepfm.benchmarks import speeds_page
from hepfm.benchmarks.reports.jets import Suite, evaluate_jets
from hepfm.benchmarks.reports.showers import evaluate_showers

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed here"),
    pytest.mark.slow,
]


def check(page: Path) -> None:
    seen, told = opened(page)
    assert not told
    assert [each.width for each in seen] == [PHONE, DESKTOP]
    for each in seen:
        assert each.reach <= each.width, f"wider than {each.width} px"
        assert each.height > 900
        assert each.broken == 0


def test_a_report_of_jets(toy_jets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples = {f"sample with a long name {n}": toy_jets(seed=n, jets=120) for n in range(1, 4)}
    suite = Suite(without=("transport",))
    origin = {"corpus": "x" * 200, "made by": {"command": "hepfm ingest " + "y" * 300}}
    check(evaluate_jets(toy_jets(jets=120), samples, tmp_path, provenance={"a": origin}, suite=suite, replicas=4))


def test_a_report_of_showers(toy_showers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples = {f"showers {n}": toy_showers(showers=80, seed=n) for n in range(1, 3)}
    check(evaluate_showers(toy_showers(showers=80), samples, tmp_path, provenance={}, replicas=4))


def test_the_page_of_speeds(tmp_path: Path) -> None:
    result = {
        "name": "corpus-read", "value": 2.6e7, "unit": "jets/s",
        "ratios": {f"a_long_reference_{n}": 3.0 for n in range(9)},
        "spread": 0.1, "machine": "m", "versions": {},
    }  # fmt: skip
    details = {
        "value_of": "ours", "rates": {"ours": 2.6e7}, "rate_spread": {"ours": 0.1}, "figures": {"seconds": 3.1416},
        "notes": ["n" * 300],
    }  # fmt: skip
    told = {"results": [result], "details": {"corpus-read": details}}
    data = {"date": "", "machine": "m", **told, "failed": {"tag-train": "exit code 1: " + "e" * 300}}
    page = tmp_path / "index.html"
    page.write_text(speeds_page.page({**data, "command": "", "code": "", "versions": {}, "seconds": {}}))
    check(page)
