"""Losses and gradients that are no numbers: left out by rule, for good."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder

TOY = Path(__file__).with_name("engine_toy.py")
toy = SimpleNamespace(**runpy.run_path(str(TOY)))
RECORDS = toy.SMALL["batch_records"]


class Without(toy.Records):  # type: ignore[misc, name-defined]
    """The records, less the batches with these numbers."""

    def __init__(self, *batches: int) -> None:
        super().__init__()
        self.batches = batches

    def batch(self, start: int, stop: int) -> Any:
        return super().batch(*self._moved(start, stop))

    def tokens(self, start: int, stop: int) -> int:
        return super().tokens(*self._moved(start, stop))

    def _moved(self, start: int, stop: int) -> tuple[int, int]:
        kept = [batch for batch in range(100) if batch not in self.batches]
        moved = (kept[start // RECORDS] - start // RECORDS) * RECORDS
        return start + moved, stop + moved


def fit_without(out: Path, *batches: int, **settings: Any) -> dict[str, torch.Tensor]:
    """The final state of a run on records that lack these batches from the beginning."""
    module = toy.Toy(True)
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, **settings})
    toy.train(module, Without(*batches), toy.Records(), config, RunFolder(out), {"data": "toy"})
    return module.state_dict()


def skipped(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "skipped.json").read_text())


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        (0, {"bad": [88]}),
        (3, {"bad_gradient": 88}),
        *(
            pytest.param(stage, what, marks=pytest.mark.slow)
            for stage, what in [(0, {"bad_gradient": 88}), (1, {"bad": [88]}), (2, {"bad_gradient": 88})]
        ),
    ],
)
def test_a_rollback_gives_the_run_that_never_saw_the_batch(
    stage: int, what: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"zero_stage": stage, "ema": 0.9, "steps": 8}
    found = toy.fit(tmp_path / "run", noisy=True, nonfinite="rollback", **what, **settings)
    toy.assert_equal(found, fit_without(tmp_path / "without", 5, **settings))
    assert toy.curve(tmp_path / "run") == toy.curve(tmp_path / "without")
    (entry,) = skipped(tmp_path / "run")
    assert (entry["step"], entry["first_position"], entry["end_position"]) == (6, 80, 96)
    assert entry["loss" if "bad" in what else "gradient_norm"] in ("inf", "nan")
    told = capsys.readouterr().err
    assert "positions 80 to 95 (1 of at most 3 such batches)" in told
    assert "step-0000004" in told


def test_the_first_batch_can_be_left_out_and_others_too(tmp_path: Path) -> None:
    found = toy.fit(tmp_path / "run", noisy=True, nonfinite="rollback", bad=[3, 16, 100])
    toy.assert_equal(found, fit_without(tmp_path / "without", 0, 1, 6))
    assert [entry["batch"] for entry in skipped(tmp_path / "run")] == [0, 1, 6]
    assert [entry["step"] for entry in skipped(tmp_path / "run")] == [1, 1, 5]


def test_what_was_left_out_stays_out_when_the_run_continues(tmp_path: Path) -> None:
    expected = toy.fit(tmp_path / "run", noisy=True, nonfinite="rollback", bad=[40], keep_checkpoints=9)
    for path in list((tmp_path / "run" / "checkpoints").glob("step-*")):
        path.rename(path.with_name(f".removed-{path.name}"))
    # The records are good now, and still the run is the same.
    toy.assert_equal(toy.fit(tmp_path / "run", noisy=True), expected)


@pytest.mark.parametrize("text", ["{}", '[{"batch": "5"}]', "[5]", "[", '[{"batch": -1}]'])
def test_a_list_of_left_out_batches_that_nobody_wrote_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "skipped.json").write_text(text)
    with pytest.raises(HepfmError, match=r"skipped\.json"):
        toy.fit(tmp_path / "run", noisy=True)


def test_a_run_that_stopped_can_go_on_without_the_batch(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="--nonfinite rollback"):
        toy.fit(tmp_path / "run", noisy=True, bad=[88])
    found = toy.fit(tmp_path / "run", noisy=True, bad=[88], nonfinite="rollback")
    toy.assert_equal(found, fit_without(tmp_path / "without", 5))


def test_after_so_many_rollbacks_it_stops_and_names_the_records(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="not finite at step 3, records at positions 64 to 79") as refused:
        toy.fit(tmp_path / "run", nonfinite="rollback", rollbacks=2, bad=[40, 50, 70])
    assert [entry["batch"] for entry in skipped(tmp_path / "run")] == [2, 3]
    assert json.loads(Path(refused.value.where).read_text())["first_position"] == 64


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_gradient_that_is_no_number_stops_at_every_zero_stage(stage: int, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="gradient_norm not finite at step 3"):
        toy.fit(tmp_path / "run", bad_gradient=40, zero_stage=stage, steps=3)
