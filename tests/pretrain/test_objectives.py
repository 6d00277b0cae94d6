"""``hepfm pretrain --objective``: every objective from a token corpus to an artifact; probes change no weight."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kills import assert_same_run, finish, kill
from physics_tokens import jet_corpus, tokens_of
from safetensors.torch import load_file

from hepfm.core.config import parse
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.stopping import Requeue
from hepfm.core.errors import HepfmError
from hepfm.core.runs import RunFolder, read_metrics
from hepfm.finetune.generate import GenerateConfig
from hepfm.finetune.generate import main as generate
from hepfm.pretrain.backbone import load_backbone
from hepfm.pretrain.objectives import ObjectiveConfig
from hepfm.pretrain.run import PretrainConfig, main
from hepfm.tokenize.apply import apply

TRAINING = TrainingConfig(
    steps=6, batch_records=32, warmup_steps=1, log_every=1, validate_every=6, checkpoint_every=3, validation_records=64
)
WAYS = {
    "next-token": ObjectiveConfig(probe=("linear",), probe_every=2),
    "masked": ObjectiveConfig("masked", probe=("linear", "class-attention"), probe_every=1),
    "masked-v1": ObjectiveConfig("masked-v1", input="tokens"),
    "joint": ObjectiveConfig("joint", input="tokens", probe=("class-attention",)),
}


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A token corpus and the corpus that it was made from."""
    folder = tmp_path_factory.mktemp("jets")
    corpus = jet_corpus(folder / "jets")
    return tokens_of(corpus, folder), corpus.path


def config_of(tokens: Path, out: Path, task: ObjectiveConfig, **training: object) -> PretrainConfig:
    return PretrainConfig((tokens,), out, max_length=8, task=task, training=replace(TRAINING, **training))


@pytest.mark.parametrize("name", WAYS)
def test_every_objective_ends_in_a_backbone_that_loads(
    name: str, jets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = WAYS[name]
    main(config_of(jets[0], tmp_path / "run", task))
    told = capsys.readouterr().err
    assert f"objective: {name}, reads {'features' if name == 'masked' else 'tokens'}" in told
    assert "MFLOP per token" in told
    backbone, artifact = load_backbone(tmp_path / "run")
    assert backbone.config.objective == name
    assert bool(backbone.config.features) == (name == "masked")
    assert artifact.provenance["objective"]["mask_fraction"] == {"next-token": 0.0, "masked-v1": 0.3}.get(name, 0.4)
    assert name in (artifact.path / "README.md").read_text()
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    for probe in task.probe:
        label = f"probe_{probe.replace('-', '_')}_accuracy"
        learning = [line["step"] for line in lines if label in line]
        assert learning == list(range(task.probe_every, 7, task.probe_every))
        assert 0 <= lines[-1][f"validation_{label}"] <= 1
    if name in ("next-token", "joint"):
        generate(GenerateConfig(str(tmp_path / "run"), tmp_path / "jets.parquet", n=5, format="parquet"))
        assert (tmp_path / "jets.parquet").exists()
    else:
        with pytest.raises(HepfmError, match="cannot generate: it was pretrained to predict masked") as error:
            generate(GenerateConfig(str(tmp_path / "run"), tmp_path / "jets.root"))
        assert "\n" not in str(error.value)


def test_reads_the_source_corpus_where_it_is_named(jets: tuple[Path, Path], tmp_path: Path) -> None:
    tokens, source = jets
    config = replace(config_of(tokens, tmp_path / "run", ObjectiveConfig("joint"), steps=1), source=(source,))
    main(config)
    backbone, artifact = load_backbone(tmp_path / "run")
    assert len(artifact.provenance["sources"]) == 1
    with pytest.raises(HepfmError, match="cannot generate: it reads continuous features"):
        generate(GenerateConfig(str(tmp_path / "run"), tmp_path / "jets.root"))
    assert backbone.config.features == 3


def weights_of(run: Path, **wanted: object) -> dict[str, torch.Tensor]:
    return load_file(run / "artifact/model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_probes_change_no_weight_of_the_backbone(zero_stage: int, jets: tuple[Path, Path], tmp_path: Path) -> None:
    """To the bit, though gradients are clipped by their global norm."""
    bare = ObjectiveConfig("masked")
    probed = replace(bare, probe=("linear", "class-attention"), probe_every=2)
    for name, task in (("bare", bare), ("probed", probed)):
        main(config_of(jets[0], tmp_path / name, task, clip=0.01, zero_stage=zero_stage))
    first, second = weights_of(tmp_path / "bare"), weights_of(tmp_path / "probed")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl")[-1] for name in ("bare", "probed")]
    assert lines[0]["gradient_norm"] == lines[1]["gradient_norm"] > 0.01


@pytest.mark.parametrize("name", ["masked", pytest.param("joint", marks=pytest.mark.slow)])
def test_an_interrupted_run_continues_bit_for_bit(
    name: str, jets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks, probes and their optimiser too."""
    task = ObjectiveConfig(name, probe=("linear", "class-attention"), probe_every=2)  # type: ignore[arg-type]
    main(config_of(jets[0], tmp_path / "whole", task))
    cut = config_of(jets[0], tmp_path / "cut", task)
    log = RunFolder.log

    def stop(self: RunFolder, step: int, **figures: float) -> None:
        log(self, step, **figures)
        if step == 4:
            raise Requeue

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        with pytest.raises(Requeue):
            main(cut)
    main(cut)
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(first[key], second[key]) for key in first)
    timing = ("seconds", "tokens_per_s", "of_peak", "peak_memory_mb")
    lines = [
        [
            {key: value for key, value in line.items() if not any(word in key for word in timing)}
            for line in read_metrics(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


KILLED = {
    "next-token": "--condition label jet_pt",
    "masked": "--target regression",
    "masked-v1": "--accumulation 2",
    "joint": "--input tokens --condition label jet_pt",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_continues_bit_for_bit(name: str, jets: tuple[Path, Path], tmp_path: Path) -> None:
    """kill -9 at two moments, with probes, averages and early stopping at once."""
    words = f"pretrain {jets[0]} --objective {name} {KILLED[name]} --max-length 8"
    words += " --probe linear class-attention --probe-every 2 --ema 0.9 --patience 9 --steps 16"
    words += " --batch-records 16 --warmup-steps 2 --log-every 1 --checkpoint-every 4 --validate-every 5"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(words.split(), whole)
    for lines in (3, 9):
        kill(words.split(), cut, lines)
    finish(words.split(), cut)
    assert_same_run(cut, whole)
    assert "validation_probe_linear_loss" in read_metrics(cut / "metrics.jsonl")[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "masked-v1", "joint"])
def test_sharded_weights_and_bf16_learn_alike(name: str, jets: tuple[Path, Path], tmp_path: Path) -> None:
    """ZeRO 3 up to rounding, bf16 within its own: features, probes, averages."""
    task = ObjectiveConfig(name, probe=("linear", "class-attention"), probe_every=2)  # type: ignore[arg-type]
    ways: dict[str, dict[str, object]] = {
        "plain": {},
        "sharded": {"zero_stage": 3},
        "low": {"precision": "bf16"},
        "both": {"zero_stage": 3, "precision": "bf16", "activation_checkpointing": True},
    }
    lines = {}
    for way, training in ways.items():
        main(config_of(jets[0], tmp_path / way, task, ema=0.9, **training))
        lines[way] = read_metrics(tmp_path / way / "metrics.jsonl")[-1]
    for way, tolerance in (("sharded", 1e-5), ("low", 0.02), ("both", 0.02)):
        for figure in ("loss", "validation_loss", "validation_probe_linear_loss"):
            assert lines[way][figure] == pytest.approx(lines["plain"][figure], rel=tolerance), (way, figure)


def test_a_corpus_that_changed_is_refused(jets: tuple[Path, Path], tmp_path: Path) -> None:
    task = ObjectiveConfig("masked", input="tokens")
    shutil.copytree(jets[0], tmp_path / "tokens")
    config = config_of(tmp_path / "tokens", tmp_path / "run", task, steps=3)
    main(config)
    shutil.rmtree(tmp_path / "run/artifact")
    shutil.rmtree(tmp_path / "tokens")
    (tmp_path / "other").mkdir()
    made = tokens_of(jet_corpus(tmp_path / "other/jets", seed=9), tmp_path / "other")
    shutil.copytree(made, tmp_path / "tokens")
    with pytest.raises(HepfmError, match="corpora") as error:
        main(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ObjectiveConfig(input="features"), "next-token does not read features"),
        (ObjectiveConfig(target="regression"), "next-token does not predict by regression"),
        (ObjectiveConfig(mask_fraction=0.4), "next-token masks nothing"),
        (ObjectiveConfig("masked", mask_fraction=1.0), "--mask-fraction: must lie between 0 and 1"),
        (ObjectiveConfig("masked", registers=-1), "--registers: must not be negative"),
        (ObjectiveConfig("joint", masked_weight=0.0), "--masked-weight: must be positive"),
        (ObjectiveConfig(probe=("linear",), probe_every=0), "--probe-every: must be at least 1"),
        (ObjectiveConfig(probe=("linear",), probe_learning_rate=0.0), "--probe-learning-rate: must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    task: ObjectiveConfig, message: str, jets: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(HepfmError, match=message) as error:
        main(config_of(jets[0], tmp_path / "run", task))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_nothing_to_mask_is_refused(jets: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(jets[0], tmp_path / "run", ObjectiveConfig("masked", input="tokens"))
    for length, message in ((1, "masks constituents of jets with two or more"), (10**9, "between 1 and 1,000,000")):
        with pytest.raises(HepfmError, match=message):
            main(replace(config, max_length=length))
    single = jet_corpus(tmp_path / "single", 40, longest=1)
    tokens = apply(jets[0] / "tokenizer", single.path, tmp_path / "tokens").path
    with pytest.raises(HepfmError, match="no record has two points") as error:
        main(replace(config, tokens=(tokens,)))
    assert str(tokens) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_not_the_tokens_is_refused(jets: tuple[Path, Path], tmp_path: Path) -> None:
    other = jet_corpus(tmp_path / "other", seed=4).path
    config = replace(config_of(jets[0], tmp_path / "run", ObjectiveConfig("masked")), source=(other,))
    with pytest.raises(HepfmError, match="was made from the corpus"):
        main(config)
    with pytest.raises(HepfmError, match="--source: next-token reads tokens"):
        main(replace(config, task=ObjectiveConfig()))
    assert not (tmp_path / "run").exists()


def test_probes_need_labels(tmp_path: Path) -> None:
    tokens = tokens_of(jet_corpus(tmp_path / "jets", labels=()), tmp_path)
    with pytest.raises(HepfmError, match="no labels") as error:
        main(config_of(tokens, tmp_path / "run", ObjectiveConfig(probe=("linear",))))
    assert str(tokens) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_probe_leaves_out_corpora_without_labels(jets: tuple[Path, Path], tmp_path: Path) -> None:
    """Real collisions beside simulation: only simulated jets are judged."""
    real = jet_corpus(tmp_path / "real", labels=())
    made = apply(jets[0] / "tokenizer", real.path, tmp_path / "real-tokens").path
    config = config_of(jets[0], tmp_path / "run", ObjectiveConfig("masked", probe=("linear",), probe_every=1), steps=2)
    main(replace(config, tokens=(jets[0], made)))
    assert 0 <= read_metrics(tmp_path / "run/metrics.jsonl")[-1]["probe_linear_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "joint"])
def test_processes_see_the_same_masks_and_learn_alike(name: str, jets: tuple[Path, Path], tmp_path: Path) -> None:
    """Losses of one and two processes, two micro-batches each, agree to rounding: backbone, masks and probes."""
    lines = []
    for processes, accumulation in ((1, 1), (2, 2)):
        out = tmp_path / f"run{processes}"
        arguments = f"pretrain {jets[0]} --out {out} --objective {name} --probe linear class-attention --probe-every 1"
        arguments += " --max-length 8 --steps 6 --batch-records 33 --log-every 1 --validation-records 50"
        arguments += f" --nproc {processes} --accumulation {accumulation} --warmup-steps 1"
        subprocess.run([sys.executable, "-m", "hepfm.cli", *arguments.split()], check=True, timeout=300)
        lines.append(read_metrics(out / "metrics.jsonl"))
    for one, two in zip(*lines, strict=True):
        for figure in one.keys() - {"seconds", "tokens_per_s"}:
            if "loss" in figure or "accuracy" in figure or figure == "tokens":
                assert two[figure] == pytest.approx(one[figure], rel=1e-4), figure


def test_command_line_names_the_objective() -> None:
    arguments = ["tokens", "--out", "run", "--objective", "masked", "--mask-fraction", "0.3", "--probe", "linear"]
    arguments += ["class-attention", "--target", "regression", "--source", "jets"]
    config = parse(PretrainConfig, arguments, "hepfm pretrain")
    assert config.task == ObjectiveConfig(
        "masked", target="regression", mask_fraction=0.3, probe=("linear", "class-attention")
    )
    assert config.source == (Path("jets"),)
