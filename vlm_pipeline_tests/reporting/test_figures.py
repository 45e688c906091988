from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from vlm_pipeline.reporting import BuiltReport, ReportInputs
from vlm_pipeline.reporting.figures import forest, numeric, sections, training
from vlm_pipeline.reporting.figures.inline import inline_svg
from vlm_pipeline.reporting.figures.style import COLOUR_CLASSES, MARKERS, PREDICTORS
from vlm_pipeline.reporting.page import _asset
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.view import Comparison


@pytest.fixture(scope="module")
def view(inputs: ReportInputs) -> Comparison:
    return read_comparison(inputs)


def test_every_figure_has_its_numbers_and_a_description(built: BuiltReport) -> None:
    names = {figure.name for figure in built.figures}
    assert names >= {
        "forest",
        "training",
        "loop",
        "predicted",
        "errors",
        "sections",
        "radar",
        "failures",
        "cost",
    }
    for figure in built.figures:
        assert figure.table.rows and len(figure.alt) > 20
        assert all(len(row) == len(figure.table.columns) for row in figure.table.rows)


def test_same_numbers_same_bytes(view: Comparison) -> None:
    first, second = sections.section_heatmap(view), sections.section_heatmap(view)
    assert first is not None and second is not None
    assert (first.svg, first.png) == (second.svg, second.png)


def test_forest_table_holds_every_difference(view: Comparison) -> None:
    figure = forest.headline_forest(view)
    assert figure is not None
    assert (
        len(figure.table.rows) == 2 * (1 + len(view.sections)) + 1
    )  # two predictors, and tuned against hosted
    assert "Tuned adapter" in figure.svg and "better" in figure.svg
    assert forest.headline_forest(replace(view, differences=())) is None


def test_lower_is_better_turns_the_arrows(view: Comparison) -> None:
    lower = replace(view, headline=replace(view.headline, lower_is_better=True))
    figure = forest.headline_forest(lower)
    assert figure is not None and "worse →" in figure.svg and "better →" not in figure.svg


def test_cells_of_fewer_than_ten_rows_are_hatched(view: Comparison) -> None:
    many = {key: replace(e, n=40) for key, e in view.section_estimates.items()}
    key = next(iter(many))
    plain = sections.section_heatmap(replace(view, section_estimates=many))
    one_small = sections.section_heatmap(
        replace(view, section_estimates={**many, key: replace(many[key], n=9)})
    )
    assert plain is not None and one_small is not None
    assert plain.svg.count("<pattern") == 0 and one_small.svg.count("<pattern") == 1


def test_inline_figures_need_no_style_attribute_and_share_no_id(built: BuiltReport) -> None:
    ids: list[str] = []
    for figure in built.figures:
        markup = inline_svg(figure.svg, figure.name, figure.alt)
        root = ElementTree.fromstring(markup)
        assert root.get("role") == "img" and root.get("aria-label") == figure.alt
        assert "style" not in {key for element in root.iter() for key in element.attrib}
        own = [element.get("id") for element in root.iter() if element.get("id")]
        used = set(
            re.findall(
                r"#([\w-]+)",
                " ".join(
                    v for e in root.iter() for v in e.attrib.values() if "url(#" in v or v.startswith("#")
                ),
            )
        )
        used -= {colour[1:] for colour in re.findall(r"#[0-9a-f]{6}", markup)}
        assert used <= set(own), f"{figure.name} refers to ids that are gone"
        ids += own
    assert len(ids) == len(set(ids))


def test_every_palette_colour_has_both_classes_in_the_style_sheet() -> None:
    css = _asset("style.css")
    for token in COLOUR_CLASSES.values():
        assert f".f-{token} " in css and f".s-{token} " in css


def test_training_curve_joins_losses_and_evaluations() -> None:
    record = {
        "loss_curve": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}],
        "evaluations": [
            {"step": 2, "val_loss": 1.6, "score": None},
            {"step": 3, "val_loss": 1.4, "score": 0.25},
        ],
    }
    figure = training.training_curve(record)
    assert figure is not None and figure.table.columns == (
        "Step",
        "Training loss",
        "Validation loss",
        "Gate score",
    )
    assert figure.table.rows == ((1, 2.0, None, None), (2, 1.5, 1.6, None), (3, None, 1.4, 0.25))
    assert training.training_curve({"loss_curve": []}) is None and training.training_curve(None) is None


def test_confusion_counts_every_pair(view: Comparison) -> None:
    pairs = {"base": [(1, 1), (1, 2), (10, 10), (4, 9)]}
    figure = numeric.confusion(pairs, view.measured, 1, 10)
    assert figure is not None
    counted = {(row[1], column + 1): n for row in figure.table.rows for column, n in enumerate(row[2:]) if n}
    assert counted == {(1, 1): 1, (1, 2): 1, (10, 10): 1, (4, 9): 1}
    assert numeric.confusion(pairs, view.measured, 0, 100) is None


def test_far_away_predictions_are_counted_not_hidden(view: Comparison) -> None:
    figure = numeric.predicted_expected({"base": [(1, 1), (5, 5), (10, 5000)]}, view.measured)
    assert figure is not None and figure.table.rows[0][-1] == 1
    assert "drawn on the edge" in figure.note


def test_equal_rewards_are_called_broken(view: Comparison) -> None:
    flat = numeric.reward_distribution({"base": [-10.0] * 8, "tuned": [1.0, 2.0]}, view.measured)
    assert flat is not None and "Tiny base are equal" in flat.note and "Tuned" not in flat.note


def test_constant_and_single_values_draw(view: Comparison) -> None:
    assert numeric.error_distribution({"base": [(3, 3)] * 4}, view.measured) is not None
    assert numeric.predicted_expected({"base": [(0, 0)]}, view.measured) is not None


def test_text_on_every_shade_of_the_heat_map_is_readable() -> None:
    for step in range(101):
        ground = numeric.luminance(numeric.ramp(step / 100))
        assert numeric.contrast(numeric.luminance(numeric.ramp_ink(step / 100)), ground) >= 4.5
    shades = [numeric.luminance(numeric.ramp(step / 20)) for step in range(21)]
    assert shades == sorted(shades, reverse=True), "deeper must be darker without colour, too"


@pytest.mark.parametrize("deficiency", ["protan", "deutan", "tritan"])
def test_predictor_colours_differ_for_colour_blind_people(deficiency: str) -> None:
    """Full-strength simulation matrices of Machado et al. 2009; marks differ in shape as well."""
    matrices = {
        "protan": (
            (0.152286, 1.052583, -0.204868),
            (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998),
        ),
        "deutan": (
            (0.367322, 0.860646, -0.227968),
            (0.280085, 0.672501, 0.047413),
            (-0.011820, 0.042940, 0.968881),
        ),
        "tritan": (
            (1.255528, -0.076749, -0.178779),
            (-0.078411, 0.930809, 0.147602),
            (0.004733, 0.691367, 0.303900),
        ),
    }
    seen = []
    for colour in PREDICTORS[:5]:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        seen.append([sum(m * c for m, c in zip(row, rgb, strict=True)) for row in matrices[deficiency]])
    for i, first in enumerate(seen):
        for second in seen[:i]:
            assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 > 0.1
    assert len(set(MARKERS[:5])) == 5


def test_validation_losses_that_two_logs_tell_of_are_one_line_from_left_to_right() -> None:
    told = [{"step": step, "val_loss": 8.0 / (step + 1)} for step in (0, 10, 40)]
    figure = training.training_curve(
        {"loss_curve": [*told, {"step": 40, "loss": 0.1}], "evaluations": told[::-1]}
    )
    assert figure is not None
    assert [row[0] for row in figure.table.rows] == [0, 10, 40]
    assert "mathdefault" not in figure.svg, "ticks of a logarithmic axis are plain numbers"


def test_text_in_the_heat_map_keeps_its_colour_in_the_dark_scheme(view: Comparison) -> None:
    figure = sections.section_heatmap(view)
    assert figure is not None
    root = ElementTree.fromstring(inline_svg(figure.svg, "sections", "x"))
    cells = [e for e in root.iter() if e.tag.endswith("text") and "%" in "".join(e.itertext())]
    assert cells and all("f-ink" not in e.get("class", "") for e in cells)
