"""What a reader of a report has to know before the numbers."""

from __future__ import annotations

import numpy as np

from hepfm.benchmarks.reports.inputs import remarks

VALUES = np.arange(12.0), np.arange(3)


def test_the_reference_among_the_samples_and_equal_samples_are_told() -> None:
    other = VALUES[0] + 1e-9, VALUES[1]
    told = remarks(VALUES, {"copy": tuple(part.copy() for part in VALUES), "a": other, "b": other})
    assert told == [
        "copy is the reference itself (equal values), which tells nothing of a model",
        "b is the same sample as a (equal values)",
    ]


def test_samples_that_only_resemble_one_another_are_not_remarked() -> None:
    assert remarks(VALUES, {"shorter": (VALUES[0][:-1], VALUES[1]), "moved": (VALUES[0][::-1], VALUES[1])}) == []
    # the same numbers in other columns
    assert remarks((np.ones(2), np.ones(3)), {"s": (np.ones(3), np.ones(2))}) == []
