"""Quantities in running text, conversion, comparison; every row is written for this suite."""

import json
import os
from pathlib import Path

import pytest

from vlm_pipeline.scoring.hallucination import unsupported_numbers
from vlm_pipeline.scoring.quantities import compare_quantities, extract_quantities
from vlm_pipeline.scoring.units import UNITS, canonical_unit, convert

FOUND = [
    ("65 Nm", [(65, "Nm")]), ("65Nm", [(65, "Nm")]), ("65 N·m", [(65, "Nm")]), ("65 N-m", [(65, "Nm")]), ("65 newton metres", [(65, "Nm")]),
    ("48 ft-lb", [(48, "ft-lb")]), ("48 ft. lbs.", [(48, "ft-lb")]), ("48 lb-ft", [(48, "ft-lb")]), ("48 ft·lbf", [(48, "ft-lb")]), ("48 foot-pounds", [(48, "ft-lb")]),
    ("89 in. lbs.", [(89, "in-lb")]), ("89 inch pounds", [(89, "in-lb")]), ("1.5 kgf·m", [(1.5, "kgf-m")]),
    ("0.35-0.45 mm", [(0.35, "mm"), (0.45, "mm")]), ("between 2 and 3 bar", [(2, "bar"), (3, "bar")]), ("10 to 15 psi", [(10, "psi"), (15, "psi")]),
    ("90°", [(90, "deg")]), ("turn by 90 degrees", [(90, "deg")]), ("115 deg", [(115, "deg")]), ("20 °C", [(20, "°C")]), ("-40 °C", [(-40, "°C")]), ("68°F", [(68, "°F")]),
    ("10 W-40", [(10, "W-40")]), ("SAE 5W-30 oil", [(5, "W-30")]), ("1,4 bar", [(1.4, "bar")]), ("70 + 115 deg", [(70, None), (115, "deg")]),
    ("70 Nm + 115°", [(70, "Nm"), (115, "deg")]), ("Tighten the 4 bolts to 65 Nm.", [(65, "Nm")]), ("M8 x 1.25 mm", [(1.25, "mm")]),
    ("3,000 rpm", [(3000, "rpm")]), ("12 000 km", [(12000, "km")]), ("1.5 million yen", [(1.5e6, "JPY")]), ("$5", [(5, "USD")]), ("5%", [(5, "%")]),
    ("1/2 inch", [(0.5, "in")]), ("a 5 in. gap", [(5, "in")]), ("2 1/2 turns", [(2.5, "turn")]), ("six hours", [(6, "h")]), ("a 20-minute wait", [(20, "min")]),
    ("100 km/h", [(100, "km/h")]), ("9.81 m/s²", [(9.81, "m/s²")]), ("a 12 V battery with 60 Ah", [(12, "V"), (60, "Ah")]), ("2.4L engine", [(2.4, "L")]),
    ("**65** Nm", [(65, "Nm")]), ("\\(65\\,\\text{Nm}\\)", [(65, "Nm")]), ("Wait 5 s, then 10 min.", [(5, "s"), (10, "min")]), ("6.5 L/100 km", [(6.5, "L/100km")]),
    ("Step 2: use 3 mL.", [(3, "mL")]), ("1. Fill in 4 litres.", [(4, "L")]), ("4.7 kΩ", [(4.7, "kΩ")]), ("5 m of rope", [(5, "m")]), ("2, 3 or 4 bar", [(2, "bar"), (3, "bar"), (4, "bar")]),
    ("See page 12; torque is 9 Nm (80 in. lbs.).", [(9, "Nm"), (80, "in-lb")]), ("42", [(42, None)]), ("5 in the morning", [(5, None)]), ("no numbers", []), ("", []),
    # compounds
    ("3 W/m2", [(3, "W/m²")]), ("0.04 W/(m·K)", [(0.04, "W/(m·K)")]), ("5 kg/h", [(5, "kg/h")]), ("5 kg per hour", [(5, "kg/h")]), ("12 N/mm2", [(12, "N/mm²")]),
    ("4.2 kJ/(kg*K)", [(4.2, "kJ/(kg·K)")]), ("0.5 kg·m²", [(0.5, "kg·m²")]), ("5 g/kg", [(5, "g/kg")]), ("90 degrees per second", [(90, "deg/s")]),
    ("5 kg/person", [(5, "kg/person")]), ("20 minutes per day", [(20, "min")]), ("65 Nm/48 ft-lb", [(65, "Nm"), (48, "ft-lb")]), ("48 ft-lb/Nm", [(48, "ft-lb")]),
    # what only looks like a unit
    ("06A-115-561 B", []), ("Part WHT-000-712 A", []), ("Room 12 A is on floor 2.", []), ("a 12V-60Ah-battery", [(12, "V"), (60, "Ah")]),
    ("Cut a 2 1/2 in hole.", [(2.5, "in")]), ("1/2 in the morning", [(0.5, None)]), ("6'2\" tall", [(6, "ft"), (2, "in")]),
    ("2 x 1.5 mm² cable", [(1.5, "mm²")]), ("3 x 5 mm", [(3, "mm"), (5, "mm")]), ("4 x 500 mL", [(500, "mL")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "rows"), FOUND)
def test_quantities_are_found(text: str, rows: list) -> None:
    assert [(q.value, q.unit) for q in extract_quantities(text)] == rows


def test_ranges_and_tolerances_are_kept_beside_the_value() -> None:
    low, high = extract_quantities("177-406 ft. lbs.")
    assert (low.low, low.high) == (high.low, high.high) == (177, 406)
    (nominal,) = extract_quantities("65 ± 5 Nm")
    assert (nominal.value, nominal.tolerance) == (65, 5)
    assert extract_quantities("65 Nm ± 10%")[0].tolerance == pytest.approx(6.5)
    torque, angle = extract_quantities("25 Nm, then an additional 90 degrees")
    assert angle.plus and not torque.plus


def test_span_covers_number_and_unit() -> None:
    text = "Tighten the bolts to 65 Nm now."
    (found,) = extract_quantities(text)
    assert text[slice(*found.span)] == "65 Nm"


def test_every_unit_converts_to_itself_and_is_known_to_pint() -> None:
    for symbol, expression in UNITS.items():
        assert canonical_unit(symbol) is not None, symbol
        if expression:
            assert convert(2.0, symbol, symbol) == 2.0
            assert convert(1.0, symbol, "USD") is None


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [(65, "Nm", "ft-lb", 47.94), (1, "bar", "psi", 14.5038), (100, "°C", "°F", 212), (1, "in", "mm", 25.4), (0.25, "turn", "deg", 90), (1, "kgf-m", "Nm", 9.80665), (60, "mph", "km/h", 96.56),
     (12, "N/mm²", "MPa", 12), (3.6, "kg/h", "g/s", 1), (1, "W/(m·K)", "W/(m·°C)", 1), (1, "V/A", "ohm", 1)],
)  # fmt: skip
def test_conversion(value: float, source: str, target: str, expected: float) -> None:
    assert convert(value, source, target) == pytest.approx(expected, rel=1e-3)


def test_different_dimensions_do_not_convert() -> None:
    assert convert(1, "Nm", "mm") is None
    assert convert(1, "USD", "EUR") is None
    assert convert(1, "W/m²", "W") is None and convert(1, "kg/person", "kg") is None
    with pytest.raises(ValueError, match="unknown unit"):
        extract_quantities("5 mm")[0].to("smoot")


def test_rounding_to_the_written_digits_is_allowed_only_after_a_conversion() -> None:
    gold, same, converted, coarse = (
        extract_quantities(t)[0] for t in ("7 Nm", "7.2 Nm", "5 ft-lb", "0 ft-lb")
    )
    assert compare_quantities(converted, gold) == "match"
    assert compare_quantities(same, gold) == "wrong_number"
    assert compare_quantities(coarse, gold) == "wrong_number"


@pytest.mark.parametrize(
    ("answer", "reference", "page", "flagged"),
    [
        ("Tighten to 65 Nm.", "65 Nm", None, []),
        ("Tighten to 65 Nm (48 ft-lb).", "65 Nm", None, []),
        ("Tighten to 80 Nm.", "65 Nm", None, [80]),
        ("Tighten to 80 Nm.", "65 Nm", "Head bolts: 65 Nm. Cover: 80 Nm.", []),
        ("Tighten to 80 Nm.", "65 Nm", ["80 Nm", 12], []),
        ("Use 12 bolts at 65 Nm.", "65 Nm", [12.0], []),
        ("1. Loosen.\n2. Tighten to 65 Nm.", "65 Nm", None, []),
        ("See step 7: 65 Nm", "65 Nm", None, []),
        ("65 mm", "65 Nm", None, [65]),
        ("The fuse is 15 A, the relay 40 A.", "15 A", None, [40]),
        ("No numbers.", "65 Nm", None, []),
    ],
)  # fmt: skip
def test_unsupported_numbers(answer: str, reference: str, page, flagged: list[float]) -> None:
    found = unsupported_numbers(answer, reference, page)
    assert [q.value for q in found] == flagged
    for quantity in found:
        assert answer[slice(*quantity.span)]


def test_real_torques_are_found_with_their_units() -> None:
    path = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "/nonexistent")) / "torque_specs/torque_specs.jsonl"
    if not path.is_file():
        pytest.skip("VLM_PIPELINE_TEST_DATA does not hold torque_specs")
    found = total = 0
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        text = row["conversations"][-1]["content"]
        quantities = [(q.value, q.unit) for q in extract_quantities(f"The bolt takes {text} in one step.")]
        if row["metadata"]["value_nm"] is not None:
            total += 1
            found += (row["metadata"]["value_nm"], "Nm") in quantities
    assert total > 300 and found / total > 0.98, (found, total)
