"""The published relaxed accuracy of ChartQA, exactly: for comparison with published figures and for nothing else.

Masry et al. 2022 (arXiv 2203.10244, end of section 5.1), in the form of google-research/pix2struct's metrics, which the
literature uses: both texts are read by ``float`` (a text that ends in "%" without its percent signs, over 100); where the
prediction is a number and the gold is one other than zero, a relative change of up to 5 % is right; else the texts must
be equal up to case. Its known faults are part of it: 2010 is right for 2005, "1,234" wrong for "1234", "0.0" wrong for
"0", "10 m" wrong for "10". The quantity scorer is the corrected rule.
"""


def _to_float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(prediction: str, gold: str, tolerance: float = 0.05) -> bool:
    """Whether the prediction is right by the published rule. ``tolerance`` is the relative change allowed."""
    predicted, wanted = _to_float(prediction), _to_float(gold)
    if predicted is not None and wanted:
        return abs(predicted - wanted) / abs(wanted) <= tolerance
    return prediction.lower() == gold.lower()
