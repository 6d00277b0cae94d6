"""Pictures hold every sample, five at a time, and gaps where there is no value."""

from __future__ import annotations

import re

import numpy as np

from hepfm.benchmarks.reports.marks import Row, counts, like_reference, outcome_cell
from hepfm.benchmarks.reports.pictures import line_plots, matrices, ratio_plots
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.core.plots import Curve
from hepfm.core.statistics import Estimate, Floor, Values, histogram


def test_seven_samples_make_two_pictures() -> None:
    draws = np.random.default_rng(0)
    curves = [
        Curve(f"s{n}", histogram(Values.per_record(draws.normal(size=50)), np.linspace(-3, 3, 7))) for n in range(8)
    ]
    found = ratio_plots("Mass", "mass", curves[0], curves[1:], xlabel="mass [GeV]", ylabel="share")
    assert [picture["title"] for picture in found] == ["Mass (1)", "Mass (2)"]
    identifiers = re.findall(r'\bid="([^"]+)"', "".join(picture["light"] + picture["dark"] for picture in found))
    assert len(identifiers) == len(set(identifiers))


def test_a_value_that_is_not_there_is_a_gap() -> None:
    values = {"a": [Estimate(1.0, 0.1), None, Estimate(2.0, 0.1)], "b": [None, None, None]}
    (picture,) = line_plots("x", "x", np.arange(3.0), values, xlabel="x", ylabel="y", log_y=True, band=[1.0, None, 1.0])
    assert picture["light"].startswith("<svg")


def test_correlations_that_are_not_defined_are_drawn_as_such() -> None:
    known = np.array([[1.0, np.nan], [np.nan, 1.0]])
    picture = matrices("Correlations <of> a", known, {"a": known}, axis="layer")
    assert 'alt="Correlations &lt;of> a"' in picture["light"]
    assert picture["light"] != picture["dark"]


def test_verdicts_follow_floor_limit_and_error() -> None:
    floor = Floor(0.1, 0.02, 0.15, (50, 50), 1.0)
    assert like_reference(Outcome(Estimate(0.14, 0.01), floor)) is True
    assert like_reference(Outcome(Estimate(0.16, 0.01), floor)) is False
    assert like_reference(Outcome(Estimate(0.16, 0.01), floor, limit=0.17)) is True
    assert like_reference(Outcome(Estimate(0.5, 0.1), Estimate(0.9, 0.1))) is True  # a distance below its floor
    assert like_reference(Outcome(Estimate(0.5, 0.1), Estimate(0.9, 0.1)), two_sided=True) is False
    assert like_reference(Outcome(None, None, "too few")) is None
    assert like_reference(Outcome(Estimate(1.0, 0.1))) is None


def test_what_was_not_computed_is_counted_as_such() -> None:
    good, bad = Outcome(Estimate(0.0, 0.1), Estimate(0.0, 0.1)), Outcome(Estimate(9.0, 0.1), Estimate(0.0, 0.1))
    rows = [Row("a", {"s": good}), Row("b", {"s": bad}), Row("c", {"s": Outcome(None, None, "few")})]
    rows.append(Row("d", {"s": bad}, judged=False))
    (row,) = counts(rows, ["s"]).rows
    assert [cell.text for cell in row] == ["s", "1", "1", "1", "1"]
    cell = outcome_cell(Outcome(None, None, "FPD needs 20,000"))
    assert (cell.text, cell.note, cell.good) == ("not computed", "FPD needs 20,000", False)
