"""Weights & Biases beside metrics.jsonl: wanted only, and never a reason to fail."""

from __future__ import annotations

import os
from typing import Any

from hepfm.core.engine import launch
from hepfm.core.files import digest_of
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder


class Tracker:
    """Sends figures to wandb in the first process when ``wanted``; a resumed run keeps its wandb id."""

    def __init__(self, run: RunFolder, identity: dict[str, Any], wanted: bool) -> None:
        self._run: Any = None
        if wanted and launch.is_main():
            try:
                self._run = _start(run, identity)
            except Exception as error:  # whatever it is, training is worth more
                say(f"wandb is off for this run (WANDB_MODE=offline needs no network): {error}")

    def log(self, step: int, figures: dict[str, float]) -> None:
        if self._run is not None:
            try:
                self._run.log(figures, step=step)
            except Exception as error:
                say(f"wandb is off from step {step}: {error}")
                self._run = None

    def close(self) -> None:
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                say(f"wandb did not finish: {error}")


def _start(run: RunFolder, identity: dict[str, Any]) -> Any:
    import wandb  # a second of imports that most runs do without

    logged_in = wandb.login(prompt=False, verify=False)
    mode = os.environ.get("WANDB_MODE") or ("online" if logged_in else "offline")
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "hepfm"),
        name=run.path.name,
        id=digest_of([str(run.path.resolve()), identity])[:16],
        resume="allow",
        dir=str(run.path),
        mode=mode,  # type: ignore[arg-type]
        config=identity,
        settings=wandb.Settings(silent=True, init_timeout=20),
    )
