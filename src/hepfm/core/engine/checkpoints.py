"""Checkpoints that are whole or absent, found again by hash, and readable by another number of processes."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hepfm.core.engine import averages, launch
from hepfm.core.engine.averages import Averages
from hepfm.core.engine.best import Best
from hepfm.core.engine.quiet_deepspeed import DeepSpeedEngine, constants
from hepfm.core.engine.sharded import load_unsharded_state, parameter_groups, unsharded_state
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path, digest_of, fsync_folder, read_json, sha256_file, sweep, write_json
from hepfm.core.progress import say

HASHES = "hashes.json"
PARTIAL, REMOVED, UNIVERSAL = ".partial-", ".removed-", ".universal-"
UNSHARDED = "unsharded"
BEST = "best.safetensors"


@dataclass
class State:
    """Where a training is."""

    step: int = 0
    """Updates done."""
    tokens: int = 0
    """Real tokens seen."""
    figures: dict[str, float] = field(default_factory=dict)
    """Last logged figures."""
    best: Best = field(default_factory=Best)
    """The best validation so far, where early stopping looks for it."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint's hashes.json says of it, besides the hashes."""

    state: State
    """Where the training was."""
    processes: int
    """How many processes wrote it."""
    identity: dict[str, Any]
    """What the run is: settings and data."""

    @classmethod
    def of(cls, data: dict[str, Any]) -> Saved:
        """From plain data."""
        state = State(**{**data["state"], "best": Best(**data["state"]["best"])})
        return cls(**{**data, "state": state})

    @property
    def name(self) -> str:
        return f"step-{self.state.step:07d}"


class Checkpoints:
    """A run's checkpoints: ``step-0000100/`` with DeepSpeed's files and their hashes.

    DeepSpeed's files are pickles, so none is opened before its hash is right. Averages of the weights, and the weights
    of the best validation, lie beside them as safetensors, whole, so that any number of processes can read them; the
    latter are one file with several names (hard links) where the file system can do that.

    Args:
        folder: of them all.
        identity: names the run's settings, data and network.
        keep: so many are kept.
        usual: what an entry of the identity was that a checkpoint of an older version does not have.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], keep: int, usual: dict[str, Any]) -> None:
        self.folder, self.identity, self.keep, self.usual = folder, identity, keep, usual

    def newest(self) -> Saved | None:
        """The newest whole checkpoint of this run, or None; a broken one is named and passed over.

        Raises:
            HepfmError: it belongs to another run, or none of those present is whole.
        """
        found = launch.on_main(self._newest)
        return None if found is None else Saved.of(found)

    def _newest(self) -> dict[str, Any] | None:
        for leftover in self.folder.glob(".*-step-*"):
            shutil.rmtree(leftover)
        sweep(self.folder, {BEST})
        for path in self._paths():
            fault = _fault(path)
            if fault:
                say(f"{path}: broken checkpoint ({fault}), looking for the one before it")
                continue
            saved = Saved.of(read_json(path / HASHES)["saved"])
            self._check_identity(path, saved.identity)
            return asdict(saved)
        if self._paths():
            raise HepfmError(
                "no whole checkpoint is left", self.folder, "restore one, or remove the folder to start anew"
            )
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _check_identity(self, path: Path, found: dict[str, Any]) -> None:
        found = {**self.usual, **found}
        names = sorted(n for n in found.keys() | self.identity.keys() if found.get(n) != self.identity.get(n))
        if names:
            raise HepfmError(f"belongs to a run with another {', '.join(names)}", path, "use another run folder")

    def save(self, engine: DeepSpeedEngine, state: State, averaged: Averages | None) -> None:
        """Write, hash, sync and publish a checkpoint, then drop the oldest ones.

        Raises:
            HepfmError: it cannot be written (a full disk); the previous one stays and is named.
        """
        saved = Saved(state, launch.world(), self.identity)
        partial = self.folder / f"{PARTIAL}{saved.name}"
        launch.on_main(lambda: shutil.rmtree(partial, ignore_errors=True))
        content = {
            UNSHARDED: unsharded_state(engine),
            constants.UNIVERSAL_CHECKPOINT_INFO: {
                constants.UNIVERSAL_CHECKPOINT_VERSION_KEY: constants.UNIVERSAL_CHECKPOINT_VERSION_VALUE
            },
        }
        whole = averaged.state() if averaged else {}
        with self._told_when_full(self.folder / saved.name):
            engine.save_checkpoint(str(self.folder), tag=partial.name, client_state=content, save_latest=False)
            launch.on_main(lambda: self._publish(partial, saved, whole))

    def keep_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights of the best validation (the first process's ``weights``); a checkpoint then holds them.

        Raises:
            HepfmError: they cannot be written (a full disk).
        """

        def write() -> None:
            with atomic_path(self.folder / BEST) as partial:
                save_file(weights, partial)

        with self._told_when_full(self.folder / BEST):
            launch.on_main(write)

    def best(self) -> dict[str, Tensor]:
        """What :meth:`keep_best` was given last, in every process."""
        return load_file(self.folder / BEST)

    @contextmanager
    def _told_when_full(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save tells of a full disk by a RuntimeError
            whole = [path.name for path in self._paths()]
            raise HepfmError(
                f"cannot be written: {error}",
                path,
                f"make room and give the same command again: it continues from {whole[0] if whole else 'step 0'}",
            ) from error

    def _publish(self, partial: Path, saved: Saved, averaged: dict[str, Tensor]) -> None:
        if averaged:
            save_file(averaged, partial / averages.FILE)
        if saved.state.best.step:
            _link(self.folder / BEST, partial / BEST)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        hashes = {str(path.relative_to(partial)): sha256_file(path) for path in files}
        content = {"files": hashes, "saved": asdict(saved)}
        write_json(partial / HASHES, {**content, "digest": digest_of(content)})
        fsync_folder(partial)
        self._remove(saved.name)  # a broken one of this step, passed over at the start
        partial.rename(self.folder / saved.name)
        fsync_folder(self.folder)
        for script in self.folder.glob("zero_to_*.py"):  # DeepSpeed's converters, which know no hashes
            script.unlink()
        for old in self._paths()[self.keep :]:
            self._remove(old.name)

    def _remove(self, name: str) -> None:
        """Out of sight first, so that a removal cut short leaves nothing that looks like a checkpoint."""
        if (self.folder / name).exists():
            removed = (self.folder / name).rename(self.folder / f"{REMOVED}{name}")
            shutil.rmtree(removed)

    def reshard(self, saved: Saved) -> None:
        """Make the universal form of a checkpoint, for :meth:`load` with another number of processes."""
        launch.on_main(lambda: self._reshard(saved))

    def _reshard(self, saved: Saved) -> None:
        from deepspeed.checkpoint.ds_to_universal import main as convert_to_universal

        say(f"{self.folder / saved.name}: written by {saved.processes} processes, resharding for {launch.world()}")
        options = Namespace(
            input_folder=str(self.folder / saved.name),
            output_folder=str(self.folder / f"{UNIVERSAL}{saved.name}"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=False,
        )
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            convert_to_universal(options)

    def load(self, engine: DeepSpeedEngine, saved: Saved, universal: bool, averaged: Averages | None) -> None:
        """Load model, optimizer and averages into a fresh engine (built with the same ``universal``)."""
        tag = f"{UNIVERSAL}{saved.name}" if universal else saved.name
        own = [(group["weight_decay"], group["scale"]) for group in parameter_groups(engine)]
        path, client_state = engine.load_checkpoint(str(self.folder), tag=tag, load_lr_scheduler_states=False)
        if path is None:
            raise HepfmError("DeepSpeed found nothing to load", self.folder / tag)
        if universal:
            # DeepSpeed's stage 3 gives all groups the first one's settings and one shared count of steps.
            for group, (decay, scale) in zip(parameter_groups(engine), own, strict=True):
                group["weight_decay"], group["scale"] = decay, scale
            assert engine.basic_optimizer is not None
            for moments in engine.basic_optimizer.state.values():
                moments["step"] = moments["step"].clone()
            load_unsharded_state(engine, client_state[UNSHARDED])
            dist.barrier()
            launch.on_main(lambda: shutil.rmtree(self.folder / tag))
        if averaged:
            path = self.folder / saved.name / averages.FILE
            averaged.load(load_file(path), path)
        launch.on_main(lambda: self._restore_best(saved))

    def _restore_best(self, saved: Saved) -> None:
        """Back to the best weights as of the checkpoint: later ones have to be found again."""
        if saved.state.best.step:
            with atomic_path(self.folder / BEST) as partial:
                _link(self.folder / saved.name / BEST, partial)
        else:
            (self.folder / BEST).unlink(missing_ok=True)


def _link(path: Path, name: Path) -> None:
    """Give a file, never written to again, a second name; a copy where the file system has no hard links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def _fault(path: Path) -> str:
    """Why a checkpoint is not whole; empty if it is."""
    try:
        content = read_json(path / HASHES)
        digest = content.pop("digest")
        if digest != digest_of(content) or content["saved"]["state"]["step"] != int(path.name.removeprefix("step-")):
            return f"{HASHES} does not match its own digest"
        for name, expected in content["files"].items():
            if sha256_file(path / name) != expected:
                return f"{name} differs from its hash"
    except HepfmError as error:
        return error.what
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{HASHES} is not complete"
    except OSError as error:
        return str(error)
    return ""
