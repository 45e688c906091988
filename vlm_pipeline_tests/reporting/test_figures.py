from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from vlm_pipeline.reporting import BuiltReport, ReportInputs
from vlm_pipeline.reporting.drawing import draw_figures
from vlm_pipeline.reporting.figures import forest, heat, numeric, training
from vlm_pipeline.reporting.figures.inline import inline_svg
from vlm_pipeline.reporting.figures.palette import contrast, luminance
from vlm_pipeline.reporting.figures.style import wrapped
from vlm_pipeline.reporting.joining import join_rows
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.view import Comparison
from vlm_pipeline_tests.reporting.synthetic import SECTIONS, make_inputs


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


def test_same_numbers_same_bytes_of_every_figure(tmp_path) -> None:
    inputs = make_inputs(tmp_path, count=40, pages=8, score=True, predictors=3, reward=True)
    view = read_comparison(inputs)
    rows = join_rows(inputs, view)
    first, second = draw_figures(inputs, view, rows), draw_figures(inputs, view, rows)
    assert {f.name for f in first} >= {"forest", "confusion", "rewards", "predicted", "errors", "cost"}
    assert [f.name for f, other in zip(first, second, strict=True) if f != other] == []


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
    plain = heat.section_heatmap(replace(view, section_estimates=many))
    one_small = heat.section_heatmap(replace(view, section_estimates={**many, key: replace(many[key], n=9)}))
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
    figure = heat.confusion(pairs, view.measured, 1, 10)
    assert figure is not None
    counted = {(row[1], column + 1): n for row in figure.table.rows for column, n in enumerate(row[2:]) if n}
    assert counted == {(1, 1): 1, (1, 2): 1, (10, 10): 1, (4, 9): 1}
    assert heat.confusion(pairs, view.measured, 0, 100) is None


def test_far_away_predictions_are_counted_not_hidden(view: Comparison) -> None:
    figure = numeric.predicted_expected({"": {"base": [(1, 1), (5, 5), (10, 5000)]}}, view.measured)
    assert figure is not None and figure.table.rows[0][-1] == 1
    assert "drawn on the edge" in figure.note


def test_equal_rewards_are_called_broken(view: Comparison) -> None:
    flat = numeric.reward_distribution({"base": [-10.0] * 8, "tuned": [1.0, 2.0]}, view.measured)
    assert flat is not None and "Tiny base are equal" in flat.note and "Tuned" not in flat.note


def test_constant_and_single_values_draw(view: Comparison) -> None:
    assert numeric.error_distribution({"": {"base": [(3, 3)] * 4}}, view.measured) is not None
    assert numeric.predicted_expected({"": {"base": [(0, 0)]}}, view.measured) is not None
    assert numeric.predicted_expected({}, view.measured) is None
    assert numeric.error_distribution({"": {"base": []}}, view.measured) is None


def test_numbers_of_several_units_share_no_axis(view: Comparison) -> None:
    """42 Nm read as 21 Nm and 0.4 mm read as 0.2 mm are both half of it."""
    by_unit = {
        "Nm": {"base": [(42, 21), (80, 80)], "tuned": [(42, 42), (80, 80)]},
        "mm": {"base": [(0.4, 0.2)], "tuned": [(0.4, 0.4)]},
    }
    scatter = numeric.predicted_expected(by_unit, view.measured)
    assert scatter is not None and scatter.table.columns[:2] == ("Unit", "Predictor")
    assert [row[:3] for row in scatter.table.rows] == [
        ("Nm", "Tiny base", 2), ("Nm", "Tuned adapter", 2), ("mm", "Tiny base", 1), ("mm", "Tuned adapter", 1),
    ]  # fmt: skip
    errors = numeric.error_distribution(by_unit, view.measured)
    assert errors is not None and "% of expected" in errors.table.caption
    signed = {
        row[0]: dict(zip(errors.table.columns, row, strict=True))
        for row in errors.table.rows
        if row[1] == "signed"
    }
    assert signed["Tiny base"]["Min"] == -50 and signed["Tiny base"]["n"] == 3
    assert signed["Tuned adapter"]["Min"] == signed["Tuned adapter"]["Max"] == 0


def test_bars_of_a_histogram_are_in_a_table(view: Comparison) -> None:
    figure = numeric.error_distribution(
        {"": {"base": [(5, 5), (5, 6), (5, 900)], "tuned": [(1, 1)] * 4}}, view.measured
    )
    assert figure is not None
    (bars,) = figure.more
    assert bars.columns == ("Error from", "to", "Tiny base", "Tuned adapter")
    assert [sum(row[k] for row in bars.rows) for k in (2, 3)] == [3, 4]


def test_long_names_are_broken_and_not_run_into_each_other() -> None:
    assert wrapped("Qwen2-VL-7B-Instruct (bare)", 10, 4) == "Qwen2-VL-\n7B-\nInstruct\n(bare)"
    assert wrapped("torque", 10, 2) == "torque"
    long = wrapped("a name of very many words that nobody can read in two lines", 12, 2)
    assert long.count("\n") == 1 and long.endswith("…") and max(map(len, long.splitlines())) <= 14
    assert len(wrapped("x" * 80, 10, 3)) <= 12


def test_kinds_of_failure_are_told_by_their_numbers_not_by_colours(view: Comparison) -> None:
    figure = heat.failure_kinds(view.measured)
    assert figure is not None and figure.table.columns[0] == "Kind"
    for row in figure.table.rows[:-1]:
        assert row[0] in figure.svg and all(f">{count:,}<" in figure.svg for count in row[1:])
    assert figure.table.rows[-1][1:] == tuple(sum(p.failures.values()) for p in view.measured)
    assert heat.failure_kinds([replace(p, failures={}) for p in view.measured]) is None


def test_a_decision_about_two_others_leads_the_forest(tmp_path) -> None:
    inputs = make_inputs(tmp_path, count=60, pages=12, predictors=3, deciding=("tuned", "hosted"))
    figure = forest.headline_forest(read_comparison(inputs))
    assert figure is not None
    assert figure.table.rows[0][:2] == ("Tuned adapter from Hosted model", "all rows")
    assert [row[1] for row in figure.table.rows[1:6]] == list(SECTIONS)
    assert sum(row[0] == "All rows" for row in figure.table.rows) == 2


def test_the_main_figure_has_a_drawing_for_narrow_screens_with_the_same_numbers(view: Comparison) -> None:
    figure = forest.headline_forest(view)
    assert figure is not None
    texts = [
        "".join(e.itertext()) for e in ElementTree.fromstring(figure.narrow).iter() if e.tag.endswith("}text")
    ]
    for row in figure.table.rows:
        difference, low, high = row[2:5]
        assert f"{difference} [{low}, {high}]" in texts, row


def test_text_on_every_shade_of_the_heat_map_is_readable() -> None:
    for step in range(101):
        ground = luminance(heat.ramp(step / 100))
        assert contrast(luminance(heat.ramp_ink(step / 100)), ground) >= 4.5
    shades = [luminance(heat.ramp(step / 20)) for step in range(21)]
    assert shades == sorted(shades, reverse=True), "deeper must be darker without colour, too"


def test_validation_losses_that_two_logs_tell_of_are_one_line_from_left_to_right() -> None:
    told = [{"step": step, "val_loss": 8.0 / (step + 1)} for step in (0, 10, 40)]
    figure = training.training_curve(
        {"loss_curve": [*told, {"step": 40, "loss": 0.1}], "evaluations": told[::-1]}
    )
    assert figure is not None
    assert [row[0] for row in figure.table.rows] == [0, 10, 40]
    assert "mathdefault" not in figure.svg, "ticks of a logarithmic axis are plain numbers"


def test_text_in_the_heat_map_keeps_its_colour_in_the_dark_scheme(view: Comparison) -> None:
    figure = heat.section_heatmap(view)
    assert figure is not None
    root = ElementTree.fromstring(inline_svg(figure.svg, "sections", "x"))
    cells = [e for e in root.iter() if e.tag.endswith("text") and "%" in "".join(e.itertext())]
    assert cells and all("f-ink" not in e.get("class", "") for e in cells)
