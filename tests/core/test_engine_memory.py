"""Saving memory without changing the result, and saying how much memory and speed a training has."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hepfm.core.engine import peak
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.meters import Clock, note
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder, read_metrics

TOY = Path(__file__).with_name("engine_toy.py")
toy = SimpleNamespace(**runpy.run_path(str(TOY)))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_activation_checkpointing_changes_no_bit(stage: int, tmp_path: Path) -> None:
    settings = {"noisy": True, "zero_stage": stage, "accumulation": 2, "steps": 6}
    expected = toy.fit(tmp_path / "plain", **settings)
    calls = []
    original = toy.Toy.block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Toy, "block", lambda self, x: calls.append(self.training) or original(self, x))
        found = toy.fit(tmp_path / "again", **settings, activation_checkpointing=True)
    toy.assert_equal(found, expected)
    assert toy.curve(tmp_path / "again") == toy.curve(tmp_path / "plain")
    assert sum(calls) == 2 * 2 * 6  # each micro-batch of each step once forward and once again


def test_a_network_that_cannot_recompute_is_refused(tmp_path: Path) -> None:
    class Plain(torch.nn.Linear):
        pass

    config = TrainingConfig(activation_checkpointing=True)
    with pytest.raises(HepfmError, match="--activation-checkpointing"):
        toy.train(Plain(2, 2), toy.Records(), None, config, RunFolder(tmp_path / "run"), {})


@pytest.mark.parametrize("stage", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)])
def test_offload_to_the_cpu_gives_the_same_training(stage: int, tmp_path: Path) -> None:
    expected = toy.fit(tmp_path / "plain", zero_stage=stage, accumulation=2)
    offload = {"offload_optimizer": "cpu", **({"offload_parameters": "cpu"} if stage == 3 else {})}
    found = toy.fit(tmp_path / "offload", zero_stage=stage, accumulation=2, **offload)
    toy.assert_close(found, expected)
    # Where the states lie may change on the way.
    checkpoints = tmp_path / "offload" / "checkpoints"
    (checkpoints / "step-0000012").rename(checkpoints / ".removed-step-0000012")
    toy.assert_close(toy.fit(tmp_path / "offload", zero_stage=stage, accumulation=2), expected)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"offload_optimizer": "cpu"}, "needs ZeRO stage 1"),
        ({"offload_parameters": "cpu", "zero_stage": 2}, "needs ZeRO stage 3"),
    ],
)
def test_offload_that_cannot_work_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(HepfmError) as refused:
        toy.from_dict(TrainingConfig, {**toy.SMALL, **settings}).check(processes=1)
    assert told in str(refused.value)


# What is told


def test_memory_and_fraction_of_peak_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, "steps": 3})
    figures = toy.train(toy.Toy(False), toy.Records(), None, config, RunFolder(tmp_path / "run"), {}, 1e6)
    lines = read_metrics(RunFolder(tmp_path / "run").metrics)
    shares = {line["of_peak"] / line["tokens_per_s"] for line in lines}
    assert max(shares) == pytest.approx(min(shares))  # tokens/s times a constant
    told = capsys.readouterr().err
    formula = next(line for line in told.splitlines() if "of_peak is" in line)
    rate = float(formula.split(" FLOP/s")[0].split()[-1])
    assert max(shares) == pytest.approx(1e6 / rate, rel=1e-3)
    assert all(line["peak_memory_mb"] > 50 for line in lines)
    assert "peak_memory_mb" not in figures  # an artifact's bytes must not depend on the machine


def test_peak_memory_is_that_of_the_training(tmp_path: Path) -> None:
    held = torch.ones(200_000_000 // 4)  # 200 MB
    before = held.numel() * 4 / 1e6
    config = toy.from_dict(TrainingConfig, {**toy.SMALL, "steps": 1})
    memory = []
    for name in ("with", "without"):
        toy.train(toy.Toy(False), toy.Records(), None, config, RunFolder(tmp_path / name), {})
        memory.append(read_metrics(RunFolder(tmp_path / name).metrics)[-1]["peak_memory_mb"])
        held = torch.ones(1)
    assert memory[0] - memory[1] == pytest.approx(before, rel=0.2)


def test_a_share_of_peak_is_what_the_formula_says() -> None:
    clock = Clock(flops_per_token=2e6, peak=1e9)
    clock.count(1000)
    timing = clock.read()
    assert timing["of_peak"] == pytest.approx(timing["tokens_per_s"] * 2e6 / 1e9)
    assert "of_peak" not in Clock().read() if Clock().count(1) else True
    assert "41% of peak" in note({"loss": 1.0}, {"seconds": 1, "tokens_per_s": 9, "of_peak": 0.41}, 3)


def test_gpus_are_known_by_name() -> None:
    assert peak.listed("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak.listed("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak.listed("NVIDIA H100 PCIe", "fp32") == 51e12
    assert peak.listed("something new", "bf16") is None


def test_the_measured_peak_is_above_a_products_own_rate() -> None:
    torch.manual_seed(0)
    assert peak.measured(torch.float32) > 1e9  # a core of this century
