"""Cards of models that ship: each figure has its unit and error, and says what it is."""

from __future__ import annotations

import dataclasses

import pytest

from hepfm.core.artifacts import read_artifact
from hepfm.core.resolve import shipped
from hepfm.released.figure_words import meanings
from hepfm.released.recipe import Step, recipes
from hepfm.released.recipe_card import recipe_card


def test_figures_have_units_and_as_many_digits_as_their_errors() -> None:
    metrics = {
        "jet_mass_w1_gev": 3.3204,
        "jet_mass_w1_gev_uncertainty": 0.488,
        "jet_mass_w1_gev_floor": 0.9746,
        "rejection_of_QCD_at_50_percent_of_Tbqq": 1043.2,
        "rejection_of_QCD_at_50_percent_of_Tbqq_uncertainty": 982.4,
        "parameters": 1234567,
    }
    card = recipe_card(recipes()["jets-tiny"], [Step("hepfm ingest pythia --out x", 60.0, "a machine", 1)], metrics)
    assert "| jet_mass_w1_gev | GeV | 3.32 | 0.49 | 0.97 |" in card
    assert "| rejection_of_QCD_at_50_percent_of_Tbqq |  | 1,040 | 980 |  |" in card
    assert "| parameters |  | 1,234,567 |  |  |" in card
    assert "- `jet_mass_w1_gev`: Wasserstein-1" in card


def test_figures_that_mean_the_same_are_told_once() -> None:
    assert [
        line.partition(":")[0] for line in meanings(["auc", *(f"response_ratio_{at}_gev" for at in (1, 2, 3))])
    ] == [
        "- `auc`",
        "- `response_ratio_..._gev`",
    ]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_figure_of_a_shipped_model_says_what_it_is(name: str) -> None:
    metrics = read_artifact(shipped()[name]).metrics()
    for figure in metrics:
        if not figure.endswith(("_uncertainty", "_floor")):
            assert meanings([figure]), figure


@pytest.mark.parametrize("name", ["jets-tiny", "showers-cube", "tagger-tiny"])
def test_a_shipped_card_is_the_one_that_its_recipe_gives(name: str) -> None:
    artifact = read_artifact(shipped()[name])
    steps = [Step(**step) for step in artifact.provenance["recipe"]["steps"]]
    assert {field.name for field in dataclasses.fields(Step)} == artifact.provenance["recipe"]["steps"][0].keys()
    assert (artifact.path / "README.md").read_text() == recipe_card(recipes()[name], steps, artifact.metrics())
