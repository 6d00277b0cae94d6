"""Early stopping: which validation was the best, and when there have been too many worse ones since."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Best:
    """The best validation so far; plain data, saved with each checkpoint."""

    step: int = 0
    """Updates done by then; 0: there was none."""
    worse: int = 0
    """Validations since."""
    figures: dict[str, float] = field(default_factory=dict)
    """What it found: validation_loss and so on."""

    def judge(self, step: int, figures: dict[str, float]) -> bool:
        """Take in the validation after ``step`` updates; True if it is the best so far. A loss of nan never is."""
        loss = figures["validation_loss"]
        if math.isfinite(loss) and (not self.step or loss < self.figures["validation_loss"]):
            self.step, self.worse, self.figures = step, 0, figures
            return True
        self.worse += 1
        return False

    def summary(self) -> dict[str, float]:
        """Figures of the weights that are kept."""
        return {**self.figures, "best_step": self.step} if self.step else {}
