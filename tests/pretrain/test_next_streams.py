"""``hepfm pretrain`` on token corpora of several streams: to an artifact, interrupted, killed, probed, going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kills import assert_same_run, finish, kill
from physics_tokens import jet_corpus, shower_corpus, tokens_of
from safetensors.torch import load_file

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.stopping import Requeue
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder, read_metrics
from hepfm.finetune.adapt import AdaptConfig
from hepfm.finetune.adapt import main as adapt
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.objectives import ObjectiveConfig
from hepfm.pretrain.run import PretrainConfig, main
from hepfm.pretrain.stream_backbone import StreamBackbone
from hepfm.tokenize.apply import apply

TRAINING = TrainingConfig(
    steps=6, batch_records=32, warmup_steps=1, log_every=1, validate_every=6, checkpoint_every=3, validation_records=40
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def cells(folder: Path) -> Path:
    return tokens_of(shower_corpus(folder / "calo"), folder, "--tokenizer=cells")


@pytest.fixture(scope="module")
def jets(folder: Path) -> Path:
    """Jets with labels, by a residual tokenizer: two ids a constituent."""
    network = ("--quantizer=residual", "--quantizers=2", "--codes=16", "--network=mlp", "--width=16", "--blocks=1")
    return tokens_of(jet_corpus(folder / "jets"), folder / "residual", *network, "--steps=4", "--batch-records=8")


def test_showers_are_read_as_streams_without_being_asked(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conditional on what came in, and none is cut."""
    main(PretrainConfig((cells,), tmp_path / "run", training=TRAINING))
    told = capsys.readouterr().err
    assert "streams layer 4 (delay 0), cell_a 6 (delay 2), cell_b 6 (delay 3), ln(energy / MeV)" in told
    assert "objective: next-streams, reads tokens" in told
    assert "200 showers, 7.7 hits on average, at most 13" in told
    backbone, artifact = load_backbone(tmp_path / "run")
    assert isinstance(backbone, StreamBackbone)
    assert artifact.contract["max_length"] == 13
    assert [known.name for known in backbone.config.conditions] == [
        "incident_energy",
        "direction_x",
        "direction_y",
        "direction_z",
        "particle",
    ]
    assert "200 showers of the token corpus" in (artifact.path / "README.md").read_text()
    last = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    for part in ("layer", "cell_a", "cell_b", "number", "stop"):
        assert f"validation_{part}_loss" in last
    (artifact.path / "model.safetensors").write_bytes((artifact.path / "model.safetensors").read_bytes()[:-4] + b"abcd")
    with pytest.raises(HepfmError):
        load_backbone(tmp_path / "run")


def test_two_ids_a_constituent_with_a_probe_and_stated_delays(jets: Path, tmp_path: Path) -> None:
    task = ObjectiveConfig("next-streams", delays=(0, 1), probe=("linear",), probe_every=2)
    main(PretrainConfig((jets,), tmp_path / "run", max_length=6, condition=("label",), task=task, training=TRAINING))
    backbone, artifact = load_backbone(tmp_path / "run")
    assert backbone.config.streams is not None
    assert (backbone.config.streams.codes, backbone.config.streams.delays) == ((16, 16), (0, 1))
    assert backbone.config.streams.number is None
    assert artifact.metrics()["validation_probe_linear_accuracy"] >= 0
    assert artifact.provenance["lengths"]["cut_jets"] > 0


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "artifact/model.safetensors")


def test_an_interrupted_run_continues_bit_for_bit(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [PretrainConfig((cells,), tmp_path / name, training=TRAINING) for name in ("whole", "cut")]
    main(configs[0])
    log = RunFolder.log

    def stop(self: RunFolder, step: int, **figures: float) -> None:
        log(self, step, **figures)
        if step == 4:
            raise Requeue

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        with pytest.raises(Requeue):
            main(configs[1])
    main(configs[1])
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(first[key], second[key]) for key in first)
    losses = [[line["loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "zero_stage"), [(1, 0), (2, 3)])
def test_a_killed_run_continues_bit_for_bit(cells: Path, tmp_path: Path, processes: int, zero_stage: int) -> None:
    words = f"pretrain {cells} --nproc {processes} --zero-stage {zero_stage} --steps 12"
    words += " --batch-records 16 --warmup-steps 2 --log-every 1 --checkpoint-every 4 --validate-every 5"
    finish(words.split(), tmp_path / "whole")
    kill(words.split(), tmp_path / "cut", 6)
    finish(words.split(), tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_it_goes_on_with_other_showers_of_the_detector(cells: Path, tmp_path: Path) -> None:
    main(PretrainConfig((cells,), tmp_path / "run", training=replace(TRAINING, steps=1)))
    backbone, artifact = load_backbone(tmp_path / "run")
    tokens = apply(
        artifact.inner("tokenizer"), shower_corpus(tmp_path / "other", seed=7).path, tmp_path / "tokens"
    ).path
    adapt(AdaptConfig((tokens,), str(tmp_path / "run"), tmp_path / "second", training=replace(TRAINING, steps=2)))
    other, adapted = load_backbone(tmp_path / "second")
    assert adapted.provenance["parent"] == artifact.hash
    first, second = (known.config.streams and known.config.streams.number for known in (backbone, other))
    assert first is not None
    assert second is not None
    assert (first.mean, first.std) == (second.mean, second.std)
    assert second.low <= first.low < first.high <= second.high
    assert first != second


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (ObjectiveConfig("masked"), "masked does not read points of several ids"),
        (ObjectiveConfig("joint"), "joint does not read points of several ids"),
        (ObjectiveConfig("next-streams", delays=(0, 1)), "--delays: takes 4 numbers"),
        (ObjectiveConfig("next-streams", input="features"), "next-streams does not read features"),
    ],
    ids=str,
)
def test_what_streams_cannot_do_is_refused(cells: Path, tmp_path: Path, task: ObjectiveConfig, told: str) -> None:
    with pytest.raises(HepfmError, match=told):
        main(PretrainConfig((cells,), tmp_path / "run", task=task, training=TRAINING))
    assert not (tmp_path / "run").exists()


def test_one_id_a_point_is_no_matter_of_streams(tmp_path: Path) -> None:
    tokens = tokens_of(jet_corpus(tmp_path / "jets", 60), tmp_path)
    for task, told in (
        (ObjectiveConfig("next-streams"), "next-streams does not read points of one id"),
        (ObjectiveConfig(delays=(0, 1)), "--delays: are of points with several ids"),
    ):
        with pytest.raises(HepfmError, match=told):
            main(PretrainConfig((tokens,), tmp_path / "run", task=task, training=TRAINING))
