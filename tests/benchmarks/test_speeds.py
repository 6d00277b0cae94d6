"""All speeds in one run: what fails stops nothing, what was measured is kept, changes are told with their noise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hepfm.benchmarks import speeds
from hepfm.benchmarks.speeds import SpeedsConfig, chosen, main, registered
from hepfm.benchmarks.speeds_compare import changes, changes_table, read_results
from hepfm.core.errors import HepfmError

# A command line with tiny benchmarks: it counts its runs, and does what a file beside it says.
TOY = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
if sys.argv[1:] == ["--help"]:
    for name in ("generate-jets", "metrics", "pretrain-step", "all"):
        print(f"  hepfm bench {name}  what it is")
    sys.exit()
name, out = sys.argv[2], sys.argv[4]
with open(here / "runs", "a") as file:
    file.write(name + "\\n")
todo = here / name
what = todo.read_text() if todo.exists() else ""
if what == "fail":
    print("some line")
    sys.exit("hepfm: tokens/: no such corpus")
if what == "hang":
    time.sleep(60)
result = {"name": name, "value": 2.0, "unit": "jets/s", "ratios": {"theirs": 4.0}, "spread": 0.05,
          "machine": "m", "versions": {}}
details = {"value_of": "ours", "ratio_spread": {"theirs": 0.02}, "notes": ["a note"]}
if what == "lacking":
    del result["unit"]
if what == "further":
    result["figures"] = {}
pathlib.Path(out).write_text(json.dumps(result))
pathlib.Path(out[: -len(".json")] + ".details.json").write_text(json.dumps(details))
print("done")
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "cli.py").write_text(TOY)
    monkeypatch.setattr(speeds, "COMMAND", (sys.executable, str(folder / "cli.py")))
    return folder


def runs(toy: Path) -> list[str]:
    return (toy / "runs").read_text().split()


def test_the_suite_takes_what_there_is(toy: Path) -> None:
    assert "generate-jets" in chosen(())
    assert "generate-showers" not in chosen(())  # not in this command line
    assert chosen(("simulate-jets", "simulate-jets")) == ("simulate-jets",)
    with pytest.raises(HepfmError, match="no benchmark 'warp'"):
        chosen(("warp",))


def test_the_real_command_line_has_every_benchmark_of_the_suite_but_those_to_come() -> None:
    there = registered()
    assert {"corpus-build", "corpus-read", "pretrain-step", "tag-train", "metrics"} <= there
    assert "all" not in there


def test_a_failure_is_told_and_the_rest_goes_on(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "corpus-read").write_text("fail")
    (toy / "metrics").write_text("lacking")
    (toy / "tag-train").write_text("further")
    out = tmp_path / "bench"
    with pytest.raises(SystemExit) as end:
        main(SpeedsConfig(out))
    assert end.value.code == 1
    told = capsys.readouterr()
    assert "3 of" in told.err
    data = json.loads((out / "bench.json").read_text())
    assert data["failed"] == {
        "corpus-read": "exit code 1: tokens/: no such corpus",
        "metrics": "its result lacks unit",
        "tag-train": "its result has figures, too: these are details",
    }
    measured = {result["name"] for result in data["results"]}
    assert {"corpus-build", "tag-infer", "generate-jets", "pretrain-step"} <= measured
    assert all(
        result.keys() == {"name", "value", "unit", "ratios", "spread", "machine", "versions"}
        for result in data["results"]
    )
    assert data["details"]["corpus-build"]["notes"] == ["a note"]
    page = (out / "index.html").read_text()
    assert "a note" in page
    assert "tokens/: no such corpus" in page
    assert "corpus-build" in page

    # Given again, it measures what failed and nothing else.
    (toy / "corpus-read").unlink()
    (toy / "metrics").unlink()
    (toy / "tag-train").unlink()
    before = len(runs(toy))
    main(SpeedsConfig(out))
    assert runs(toy)[before:] == ["corpus-read", "tag-train", "metrics"]
    assert json.loads((out / "bench.json").read_text())["failed"] == {}
    main(SpeedsConfig(out, fresh=True, only=("metrics",)))
    assert runs(toy)[before + 3 :] == ["metrics"]


def test_results_of_other_code_are_measured_anew(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(SpeedsConfig(tmp_path / "b", only=("metrics",)))
    main(SpeedsConfig(tmp_path / "b", only=("metrics",)))
    assert runs(toy) == ["metrics"]
    monkeypatch.setattr(speeds, "code", lambda: "other")
    main(SpeedsConfig(tmp_path / "b", only=("metrics",)))
    assert runs(toy) == ["metrics"] * 2


def test_one_that_hangs_ends_at_the_limit(toy: Path, tmp_path: Path) -> None:
    (toy / "metrics").write_text("hang")
    with pytest.raises(SystemExit):
        main(SpeedsConfig(tmp_path / "b", only=("metrics", "tag-train"), minutes=0.02))
    data = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert "not done after 0.02 minutes" in data["failed"]["metrics"]


@pytest.mark.slow
def test_a_killed_run_continues(toy: Path, tmp_path: Path) -> None:
    (toy / "tag-train").write_text("hang")
    out = tmp_path / "b"
    only = ("corpus-read", "tag-train")
    script = (
        "import sys; from pathlib import Path; from hepfm.benchmarks import speeds\n"
        f"speeds.COMMAND = (sys.executable, {str(toy / 'cli.py')!r})\n"
        f"speeds.main(speeds.SpeedsConfig(Path({str(out)!r}), only={only!r}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, start_new_session=True)
    limit = time.monotonic() + 60
    while not (toy / "runs").exists() or "tag-train" not in runs(toy):
        assert time.monotonic() < limit
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    (toy / "tag-train").unlink()
    main(SpeedsConfig(out, only=only))
    assert runs(toy) == ["corpus-read", "tag-train", "tag-train"]
    assert len(json.loads((out / "bench.json").read_text())["results"]) == 2


def result(value: float, ratio: float, spread: float = 0.05, **more: Any) -> dict[str, Any]:
    return {
        "name": "corpus-read", "value": value, "unit": "jets/s", "ratios": {"webdataset": ratio}, "machine": "m",
        "spread": spread, "ratio_spread": {"webdataset": 0.01}, "versions": {}, **more,
    }  # fmt: skip


def test_changes_are_judged_by_the_spread_of_both_runs() -> None:
    value, ratio = changes([result(100, 3)], [result(108, 3.3)])
    assert value["change"] == pytest.approx(0.08)
    assert value["noise"] == pytest.approx(0.1)
    assert value["beyond"] is False
    assert ratio["beyond"] is True
    other, ratio = changes([result(100, 3, machine="another")], [result(300, 3)])
    assert other["beyond"] is None
    assert "another machine" in other["note"]
    assert ratio["beyond"] is False
    added, gone = changes([{**result(1, 1), "name": "old"}], [result(2, 2)])
    assert (added["note"], gone["note"]) == ("not in the earlier run", "not in this run")
    old = result(100, 3)
    del old["ratio_spread"]
    assert changes([old], [result(100, 9)])[1]["beyond"] is None
    text = changes_table(changes([result(100, 3)], [result(50, 3)])).markdown()
    assert "**-50.0%**" in text
    assert "beyond noise" in text


def test_only_results_are_compared_with(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HepfmError, match="no such file"):
        read_results(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(HepfmError, match="holds no results"):
        read_results(tmp_path / "other.json")
    main(SpeedsConfig(tmp_path / "b", only=("metrics",)))
    main(SpeedsConfig(tmp_path / "c", only=("metrics",), compare=tmp_path / "b" / "bench.json"))
    data = json.loads((tmp_path / "c" / "bench.json").read_text())
    assert [each["beyond"] for each in data["changes"]] == [False, False]
    assert "ratio to theirs" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(HepfmError, match="no benchmark's"):
        main(SpeedsConfig(tmp_path / "full"))
