"""What sits on both sides of a split is found; what only looks alike does not stop the work."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from vlm_pipeline.examples import (
    Example,
    ImageRef,
    Source,
    assign_splits,
    find_leakage,
    leakage_blocks,
    representation,
)
from vlm_pipeline.examples.facts import facts_of
from vlm_pipeline.examples.leakage import Leak
from vlm_pipeline.examples.near_texts import jaccard, sketch
from vlm_pipeline_tests.examples.rows import chat, example, png, read, save, write_jsonl


def drawn_page(seed: int) -> Image.Image:
    """Twelve cells with a coloured bar, a number and a unit: to a perceptual hash all such pages are alike."""
    draw_of = random.Random(seed)
    image = Image.new("RGB", (224, 168), "white")
    draw = ImageDraw.Draw(image)
    for row in range(3):
        for column in range(4):
            left, top = column * 56, row * 56
            draw.rectangle(
                (left + 2, top + 2, left + 16, top + 52),
                fill=draw_of.choice(["red", "blue", "green", "black"]),
            )
            draw.text(
                (left + 20, top + 10),
                str(draw_of.randint(10, 99)),
                fill="black",
                font=ImageFont.load_default(24),
            )
    return image


def encoded(image: Image.Image, format: str = "PNG", **options: int) -> ImageRef:
    import hashlib

    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    data = buffer.getvalue()
    return ImageRef(None, data, hashlib.sha256(data).hexdigest(), *image.size, format)


def asked(name: str, split: str, image: ImageRef, answers: dict[str, str]) -> list[Example]:
    return [
        example(
            f"{name}-{number}", question, answer, images=(image,), split=split, group=f"image:{image.sha256}"
        )
        for number, (question, answer) in enumerate(answers.items())
    ]


def kinds(leaks: list[Leak]) -> list[tuple[str, bool]]:
    return [(leak.kind, leak.blocking) for leak in leaks]


def text(name: str, split: str, question: str, answer: str, **other: object) -> Example:
    return example(name, question, answer, split=split, group=f"id:{name}", **other)


LONG = (
    "The pump is bolted to the crankcase with four screws that are tightened crosswise in two passes, first by hand "
    "until the gasket holds, then with a torque wrench that was checked within the last twelve months. "
)


def test_clean_splits_give_no_finding() -> None:
    rows = [
        text("a", "train", "How tight is the sump plug?", "25 Nm"),
        text("b", "test", "Which oil is used?", "5W-30"),
    ]
    assert find_leakage(rows) == []


def test_a_group_in_two_splits_blocks() -> None:
    rows = [
        example("a", "A?", split="train", group="group:p"),
        example("b", "B?", split="test", group="group:p"),
    ]
    leaks = find_leakage(rows)
    assert kinds(leaks) == [("group", True)] and leaks[0].rows == ("b", "a") and leaks[0].failure == 31
    assert "group:p" in leaks[0].reason and leaks[0].remedy


def test_the_same_picture_bytes_block_even_in_different_groups() -> None:
    image = encoded(drawn_page(1))
    rows = [
        example("a", "A?", images=(image,), split="train", group="page:1"),
        example("b", "B?", images=(image,), split="val", group="page:2"),
    ]
    assert kinds(find_leakage(rows)) == [("same_image", True)]


def test_the_same_text_blocks_with_the_same_answer_only() -> None:
    same = [text("a", "train", "How  TIGHT?", "5 Nm"), text("b", "test", "How tight?", "5 nm")]
    assert kinds(find_leakage(same)) == [("same_text", True)]
    other = [text("a", "train", LONG + "How tight?", "5 Nm"), text("b", "test", LONG + "How tight?", "6 Nm")]
    assert kinds(find_leakage(other)) == [("near_text", False)]


def test_nearly_the_same_text_blocks_with_the_same_answer_only() -> None:
    one, other = LONG + "How tight is the left one?", LONG + "How tight is the right one?"
    assert kinds(find_leakage([text("a", "train", one, "5 Nm"), text("b", "test", other, "5 Nm")])) == [
        ("near_text", True)
    ]
    assert kinds(find_leakage([text("a", "train", one, "5 Nm"), text("b", "test", other, "6 Nm")])) == [
        ("near_text", False)
    ]
    apart = text("b", "test", "Which oil does the gearbox take after the first thousand hours?", "5 Nm")
    assert find_leakage([text("a", "train", one, "5 Nm"), apart]) == []


def test_a_shared_system_prompt_does_not_make_questions_alike() -> None:
    """Tool lists in the system prompt are ten times longer than the question: every row would be a neighbour."""
    system = {"role": "system", "content": LONG * 20}
    rows = []
    for name, split, question in (("a", "train", "Weather in Oslo?"), ("b", "test", "Add two and three.")):
        turns = (
            system,
            {"role": "user", "content": question},
            {"role": "assistant", "content": "No tool fits."},
        )
        rows.append(Example(name, turns, split=split, group=f"id:{name}"))
    assert find_leakage(rows) == []


@pytest.mark.parametrize("variant", ["jpeg", "smaller", "brighter"])
def test_a_copy_of_a_picture_that_is_not_byte_identical_blocks_with_the_same_answers(variant: str) -> None:
    page = drawn_page(3)
    copy = {
        "jpeg": lambda: encoded(page, "JPEG", quality=60),
        "smaller": lambda: encoded(page.resize((112, 84))),
        "brighter": lambda: encoded(ImageEnhance.Brightness(page).enhance(0.85)),
    }[variant]()
    answers = {"First cell?": "17", "Second cell?": "23", "Third cell?": "40"}
    train = asked("a", "train", encoded(page), answers)
    assert kinds(find_leakage(train + asked("b", "test", copy, answers))) == [("near_image", True)]
    different = {**answers, "Second cell?": "99"}
    assert kinds(find_leakage(train + asked("b", "test", copy, different))) == [("near_image", False)]


def test_a_copy_of_a_picture_that_is_asked_about_in_other_words_blocks() -> None:
    page = drawn_page(3)
    copy = encoded(page, "JPEG", quality=60)
    train = asked("a", "train", encoded(page), {"First cell?": "17", "Second cell?": "23"})
    reworded = {"What does cell one say?": "17", "And the second?": "23", "Is there a third?": "yes"}
    assert kinds(find_leakage(train + asked("b", "test", copy, reworded))) == [("near_image", True)]
    others = {"What does cell five say?": "71", "And the sixth?": "32"}
    assert kinds(find_leakage(train + asked("b", "test", copy, others))) == [("near_image", False)]


def test_drawn_pages_that_look_alike_do_not_block_even_when_an_answer_agrees_by_chance() -> None:
    rows: list[Example] = []
    draw_of = random.Random(5)
    for number in range(120):
        answers = {
            "How tight?": str(draw_of.randint(1, 3))
        }  # one question, three answers: chance agrees often
        rows += asked(
            f"p{number}", "test" if number % 5 == 0 else "train", encoded(drawn_page(number)), answers
        )
    leaks = find_leakage(rows)
    assert kinds(leaks) == [("near_image", False)]
    assert leaks[0].count >= 3 and "of 24 pictures of test" in leaks[0].reason


def test_one_seed_for_the_generators_of_train_and_test_blocks() -> None:
    def made(split: str, seed: int) -> list[Example]:
        source = Source(f"{split}.jsonl", 1, split=split)
        return [
            text(
                f"{split}{n}",
                split,
                f"{split} {n * n}?",
                str(n),
                metadata={"generator_seed": seed},
                source=source,
            )
            for n in range(3)
        ]

    leaks = find_leakage(made("train", 7) + made("test", 7))
    assert kinds(leaks) == [("same_seed", True)] and "seed" in leaks[0].remedy
    assert find_leakage(made("train", 7) + made("test", 8)) == []


def test_one_seed_for_rows_that_are_split_afterwards_is_as_it_should_be(tmp_path: Path) -> None:
    rows = [chat(f"Question number {n * n * 7919}?", str(n), metadata={"seed": 7}) for n in range(60)]
    examples = list(assign_splits(read(write_jsonl(tmp_path / "rows.jsonl", rows))[0]))
    assert len({row.split for row in examples}) == 3
    assert not leakage_blocks(find_leakage(examples))


def test_the_same_generator_run_twice_is_caught_by_content_without_any_seed_recorded(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw_of = random.Random(11)
        rows = [
            chat(f"Add {draw_of.randint(0, 999)} and {draw_of.randint(0, 999)}.", "?", id=f"{split}{n}")
            for n in range(20)
        ]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    leaks = find_leakage(assign_splits(read(tmp_path)[0]))
    assert leakage_blocks(leaks) and {leak.kind for leak in leaks if leak.blocking} >= {"same_text"}


def test_findings_are_cut_to_a_list_that_can_be_read_and_the_rest_is_counted() -> None:
    rows = [
        text(f"{split}{n}", split, f"Question {n}?", "A") for n in range(30) for split in ("train", "test")
    ]
    leaks = find_leakage(rows, limit=10, near=False)
    assert len(leaks) == 11 and leaks[-1].count == 20


def test_thousands_of_rows_from_one_template_are_searched_in_linear_time_and_the_cut_is_told() -> None:
    """Each of n rows is a candidate for each other: without a budget the search is quadratic."""
    rows = [text(f"r{n}", "test" if n % 2 else "train", f"{LONG} Number {n}?", "no") for n in range(1_500)]
    leaks = find_leakage(rows, limit=5)
    assert kinds(leaks) == [("near_text", True)] * 6
    assert "ended after 5 findings" in leaks[-1].reason
    others = [
        text(f"r{n}", "test" if n % 2 else "train", f"{LONG[:60]} {n * 7919}{n * 104729}?", "no")
        for n in range(1_500)
    ]
    (cut,) = find_leakage(others)
    assert not cut.blocking and "not all of them were compared" in cut.reason


def test_rows_without_a_split_are_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="assign_splits"):
        find_leakage([example("a")])


def test_similarity_of_long_texts_is_estimated_well_from_their_sketches() -> None:
    words = [f"word{random.Random(n).randint(0, 10**6)}" for n in range(3_000)]
    one, other = " ".join(words), " ".join(words[:2_700] + words[:300])
    exact_one, exact_other = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (one, other))
    exact = len(exact_one & exact_other) / len(exact_one | exact_other)
    assert len(sketch(one)) == 1024
    assert jaccard(sketch(one), sketch(other)) == pytest.approx(exact, abs=0.06)


def test_pictures_from_files_are_compared_too(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    Image.open(io.BytesIO(png(1))).convert("RGB").save(tmp_path / "b.jpg", quality=90)
    rows = [
        {"image": "a.png", **chat(id="a"), "metadata": {"split": "train"}},
        {"image": "b.jpg", **chat(id="b"), "metadata": {"split": "test"}},
    ]
    leaks = find_leakage(assign_splits(read(write_jsonl(tmp_path / "rows.jsonl", rows))[0]))
    assert kinds(leaks) == [("near_image", True)] and set(leaks[0].rows) == {"a", "b"}


def test_the_representation_report_counts_and_flags_what_dominates() -> None:
    rows = [
        text(f"a{n}", "train", f"Q{n}?", "I'm sorry, I can't help with that.", section="one")
        for n in range(40)
    ]
    rows += [
        text(f"b{n}", "train", f"R{n}?", str(n), section="two", metadata={"answer": n}) for n in range(20)
    ]
    rows += [text("c", "test", "S?", "9", section="two", metadata={"score": 9.5, "answer": "x"})]
    report = representation(map(facts_of, rows))
    train = report["splits"]["train"]
    assert train["rows"] == 60 and train["refusals"] == 40 and train["sections"] == {"one": 40, "two": 20}
    assert next(iter(train["top_answers"].values())) == 40
    assert sum(train["score_histogram"]) == train["scored"] == 20
    assert report["splits"]["test"]["scored"] == 1
    assert any("refusals" in flag for flag in report["flags"]) and any(
        "40 of 60 rows answer" in flag for flag in report["flags"]
    )
