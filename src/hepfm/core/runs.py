"""A run's folder: config.yaml, metrics.jsonl, checkpoints/, and the artifact it ends in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hepfm.core.config import plain, read_yaml, save_yaml, to_dict
from hepfm.core.errors import HepfmError
from hepfm.core.files import is_temporary, locked, told_when_full, write_text


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    @property
    def finished(self) -> bool:
        """The artifact is written last, so a run that has one is complete."""
        return (self.artifact / "config.json").exists()

    def claim(self, config: Any, free: Collection[str] = ()) -> None:
        """Start or continue the run of ``config`` here.

        Args:
            config: the command's settings.
            free: names of settings, at any depth, in which a continued run may differ from what began it.

        Raises:
            HepfmError: the folder holds another run, or something that is no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise HepfmError("is a file, not a folder", self.path, "name another --out")
        if self.config.exists():
            before = read_yaml(self.config)
            if not isinstance(before, dict) or not before:
                raise HepfmError("is no run's configuration", self.config, "restore it, or name another --out")
            before = _completed(before, config)
            names = sorted(_differences(_without(free, before), _without(free, to_dict(config))))
            if names and self._begun():
                raise HepfmError(
                    f"holds a run with other settings: {', '.join(names)}",
                    self.path,
                    "name another --out, or remove this folder",
                )
            if names:  # the earlier settings were refused, or nothing came of them
                with locked(self.checkpoints):
                    save_yaml(config, self.config)
            return
        # A process may have been killed while it wrote the configuration, the first file of a run.
        if self.path.exists() and not all(item.name == ".lock" or is_temporary(item) for item in self.path.iterdir()):
            raise HepfmError("is not empty and not a run", self.path, "name another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        save_yaml(config, self.config)

    def _begun(self) -> bool:
        """Is there anything that was computed?"""
        prepared = {self.config.name, self.checkpoints.name, "wandb", ".lock"}
        found = [*self.path.iterdir(), *(self.checkpoints.iterdir() if self.checkpoints.exists() else ())]
        return any(item.name not in prepared and not is_temporary(item) for item in found)

    def cut_metrics(self, step: int) -> None:
        """Drop metric lines past ``step`` (and a half-written last line): a resumed run writes them again."""
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def log(self, step: int, **figures: float) -> None:
        """Append one line to metrics.jsonl."""
        with told_when_full(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")


def _without(names: Collection[str], data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without(names, value) for name, value in data.items() if name not in names}
    return data


def _completed(before: Any, config: Any) -> Any:
    """Settings as they were saved, and by their defaults those that were not known yet when they were."""
    if not isinstance(before, dict):
        return before
    found = dict(before)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in before:
            if dataclasses.is_dataclass(value):
                found[field.name] = _completed(before[field.name], value)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = plain(field.default_factory())
    return found


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """Names of the settings that differ, the inner ones as outer.inner."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{prefix}.{name}" if prefix else name)
    elif before != now:
        yield prefix


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
