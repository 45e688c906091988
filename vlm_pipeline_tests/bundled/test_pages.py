"""Pages: the picture and the facts say the same."""

import json
import random

import numpy as np
import pytest

from vlm_pipeline.bundled import manual_qa, street_safety
from vlm_pipeline.bundled.base_model.random_pages import random_page
from vlm_pipeline.bundled.glyphs import PICTOGRAMS, STREET_OBJECTS, TILE
from vlm_pipeline.bundled.pages import FEATURES, Entry, page_from_dict, place_entries, render, token_features


def test_a_page_survives_json():
    rng = random.Random(1)
    for _ in range(30):
        page = random_page(rng)
        again = page_from_dict(json.loads(json.dumps(page.as_dict())))
        assert np.array_equal(np.asarray(render(page)), np.asarray(render(again)))
        assert np.array_equal(token_features(page), token_features(again))


def test_every_tile_is_one_image_token_and_within_the_pixel_budget():
    rng = random.Random(2)
    makers = [lambda s=s: manual_qa.make_page(s, rng) for s in manual_qa.SECTIONS]
    makers += [lambda s=s: street_safety.make_scene(s, rng) for s in street_safety.SECTIONS]
    for make in makers:
        page = make()
        image = render(page)
        assert image.size == (page.cols * TILE, page.rows * TILE)
        assert 4 <= page.rows * page.cols <= 80
        features = token_features(page)
        assert features.shape == (page.rows * page.cols, len(FEATURES))
        assert (features < np.array(list(FEATURES.values()))).all()


@pytest.mark.parametrize("change", [{"shape": "star"}, {"colour": "blue"}, {"value": 49}, {"value": 38}, {"dot": 1},
                                    {"second": 5}, {"mode": "range", "second": 60}, {"unit": "mm"}])  # fmt: skip
def test_what_differs_in_the_facts_differs_in_the_picture(change):
    facts = {"shape": "gear", "colour": "red", "value": 48, "mode": "tolerance", "second": 4, "unit": "Nm"}
    one = place_entries([Entry(**facts)], "list")
    other = place_entries([Entry(**{**facts, **change})], "list")
    assert not np.array_equal(np.asarray(render(one)), np.asarray(render(other)))


def test_all_pictograms_and_street_objects_look_different():
    pictures = {}
    for shape in PICTOGRAMS + STREET_OBJECTS:
        image = render(place_entries([Entry(shape=shape, colour="black")], "map"))
        pictures[image.tobytes()] = shape
    assert len(pictures) == len(PICTOGRAMS) + len(STREET_OBJECTS)


def test_street_score_follows_what_can_be_seen():
    counts = dict.fromkeys([*street_safety.WEIGHT, *street_safety.NEUTRAL], 0)
    assert street_safety.score({"light": "dusk", "counts": counts}) == 5
    assert street_safety.score({"light": "day", "counts": {**counts, "lamp": 2}}) == 9
    assert street_safety.score({"light": "day", "counts": {**counts, "lamp": 1, "litter": 2}}) == 8
    assert street_safety.score({"light": "night", "counts": {**counts, "litter": 3, "graffiti": 2}}) == 1
    assert street_safety.score({"light": "dusk", "counts": {**counts, "tree": 5, "car": 3}}) == 5
