"""Grouping by shared prefixes: what may be shared is, what may not is not, and nobody is left out."""

from __future__ import annotations

import random

from vlm_pipeline.inference.plan import ImageInput, Prompt, batch_groups, group_prompts, suffix_length

IMAGE = 9


def page(name: str, *tail: int) -> Prompt:
    return Prompt((1, *[IMAGE] * 20, *tail), (ImageInput(name, (1, 8, 10), name),))


def test_questions_of_one_picture_share_it_and_others_do_not():
    prompts = [page("a", 2, 3), page("b", 2, 3), page("a", 2, 4), page("a", 5)]
    groups = group_prompts(prompts, image_token=IMAGE, max_members=10)
    assert sorted(sorted(group.members) for group in groups) == [[0, 2, 3], [1]]
    shared = next(group for group in groups if len(group.members) == 3)
    assert shared.prefix == 21, "up to the end of the picture, where the questions differ"


def test_equal_ids_over_different_pictures_are_never_shared():
    """The placeholders of two pictures are the same ids: only the picture's hash tells them apart."""
    groups = group_prompts([page("a", 2), page("b", 2)], image_token=IMAGE, max_members=10)
    assert all(len(group.members) == 1 for group in groups)


def test_a_prefix_never_ends_inside_or_before_a_picture():
    prompts = [
        Prompt((*range(10, 40), *[IMAGE] * 4, 5, 6), (ImageInput("a", (1, 4, 4), "a"),)),
        Prompt((*range(10, 40), 7, *[IMAGE] * 4, 5), (ImageInput("a", (1, 4, 4), "a"),)),
    ]
    assert all(len(group.members) == 1 for group in group_prompts(prompts, image_token=IMAGE, max_members=10))


def test_a_token_is_always_left_to_be_read():
    prompts = [Prompt(tuple(range(50))), Prompt(tuple(range(50))), Prompt(tuple(range(51))), Prompt((1,))]
    groups = group_prompts(prompts, image_token=None, max_members=10)
    assert all(len(prompts[member].ids) > group.prefix for group in groups for member in group.members)


def test_long_rests_are_not_read_against_a_short_prefix():
    """A 5,000-token document behind a 100-token system prompt would pad every branch of its batch to 5,000."""
    system = tuple(range(100))
    prompts = [Prompt(system), Prompt((*system, *range(200, 5200))), Prompt((*system, 7, 8))]
    groups = group_prompts(prompts, image_token=None, max_members=10)
    assert max(suffix_length(prompts, group) for group in groups) <= 256


def test_every_prompt_is_in_exactly_one_batch_and_limits_hold():
    source = random.Random(0)
    stems = [tuple(source.choices(range(100), k=source.randint(5, 60))) for _ in range(20)]
    prompts = [
        Prompt((*source.choice(stems), *source.choices(range(100), k=source.randint(1, 30))))
        for _ in range(300)
    ]
    groups = group_prompts(prompts, image_token=None, max_members=8)
    batches = batch_groups(prompts, groups, max_rows=32, max_prefix_tokens=400)
    members = [member for batch in batches for group in batch for member in group.members]
    assert sorted(members) == list(range(300))
    for batch in batches:
        assert sum(len(group.members) for group in batch) <= 32
        assert len(batch) == 1 or len(batch) * max(group.prefix for group in batch) <= 400
        for group in batch:
            first = prompts[group.members[0]].ids[: group.prefix]
            assert all(prompts[member].ids[: group.prefix] == first for member in group.members)
