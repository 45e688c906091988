"""The embedded base as it is shipped: loads like any hub model, sees, talks, and knows no task."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vlm_pipeline.bundled import manual_qa  # noqa: E402
from vlm_pipeline.bundled.base_model.model import Builder, answer_loss, collate, merge  # noqa: E402
from vlm_pipeline.bundled.base_model.questions import Asker  # noqa: E402
from vlm_pipeline.bundled.base_model.random_pages import random_page  # noqa: E402
from vlm_pipeline.bundled.base_model.tokenizer import SPECIAL_TOKENS  # noqa: E402
from vlm_pipeline.bundled.base_model.vision import pixel_batch  # noqa: E402
from vlm_pipeline.bundled.make_data import page_facts  # noqa: E402
from vlm_pipeline.bundled.pages import page_from_dict, render  # noqa: E402

DATA = Path(__file__).parents[2] / "data"
BASE = DATA / "base_model"


@pytest.fixture(scope="module")
def processor():
    return transformers.AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()


def ask(model, processor, page, questions: list[str], new_tokens: int = 48) -> list[str]:
    processor.tokenizer.padding_side = "left"
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}] for q in questions
    ]
    prompts = [processor.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    inputs = processor(text=prompts, images=[render(page)] * len(prompts), padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=new_tokens)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_weights_are_small_bfloat16_safetensors_of_the_stated_size(model):
    from safetensors import safe_open

    files = list(BASE.glob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 12_000_000
    with safe_open(files[0], "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert 3e6 <= sum(p.numel() for p in model.parameters()) <= 5e6
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_generation_is_greedy_and_ends_at_the_end_of_turn(model, tokenizer):
    config = model.generation_config
    assert not config.do_sample
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in config.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_control_tokens_are_single_special_ids(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    assert len(set(ids)) == len(SPECIAL_TOKENS) and set(ids) <= set(tokenizer.all_special_ids)
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer.encode(token) == [number]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60).filter(lambda s: "<|" not in s))
def test_any_text_survives_the_tokenizer(text):
    import unicodedata

    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    plain = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    assert tokenizer.decode(tokenizer.encode(plain), clean_up_tokenization_spaces=False) == plain


def test_digits_are_single_tokens(tokenizer):
    assert [tokenizer.decode([i]) for i in tokenizer.encode("12,450.07")] == list("12,450.07")


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is in the list?"},
    {"role": "assistant", "content": "Two bolts."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def as_parts(chat):
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat]


def test_template_is_the_same_in_tokenizer_and_processor_and_for_both_ways_to_write_content(
    tokenizer, processor
):
    assert tokenizer.chat_template == processor.chat_template
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text == tokenizer.apply_chat_template(as_parts(CHAT), tokenize=False)
    assert text == processor.apply_chat_template(as_parts(CHAT), tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


def test_template_marks_assistant_content_and_its_end_of_turn(tokenizer):
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "Two bolts.<|im_end|>Yes.<|im_end|>"


def test_generation_prompt_is_a_prefix_of_the_training_text(tokenizer):
    full = tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    prompt = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert full[: len(prompt)] == prompt


def test_template_keeps_the_order_of_images_and_text(tokenizer):
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image"},
        {"type": "text", "text": "b"},
        {"type": "image"},
    ]
    text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == f"<|im_start|>user\na{picture}b{picture}<|im_end|>\n"


def test_template_renders_tools_calls_and_responses(tokenizer):
    tools = [
        {
            "type": "function",
            "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
        }
    ]
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"key": 'a "b"'}}}
    chat = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "Done."},
    ]
    text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    listed = re.search(r"<tools>\n(.*)\n</tools>\n", text).group(1)
    assert json.loads(listed) == tools[0]
    calls = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text.split("Go.")[1])
    assert [json.loads(c) for c in calls] == [{"name": "look_up", "arguments": {"key": 'a "b"'}}] * 2
    assert text.count("<|im_start|>user") == 2
    assert "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>" in text


def test_our_pixels_are_the_processors(processor):
    images = [render(random_page(random.Random(seed))) for seed in range(4)]
    ours, grid = pixel_batch(images)
    theirs = processor.image_processor(images=images, return_tensors="pt")
    assert torch.equal(grid, theirs["image_grid_thw"])
    assert torch.allclose(ours, theirs["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("size", [(320, 240), (800, 600), (60, 40)])
def test_other_pictures_become_at_most_eighty_tokens(processor, size):
    from PIL import Image

    grid = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][
        0
    ]
    assert 4 <= int(grid.prod()) // 4 <= 80


def test_training_sequences_are_what_the_template_renders_and_branches_do_not_see_each_other(
    model, processor, tokenizer
):
    """One packed sequence gives the loss of its questions asked one by one through the public interface."""
    page = random_page(random.Random(5))
    pairs = Asker(page, random.Random(6)).ask(3)
    builder = Builder(tokenizer)
    grid = (page.rows, page.cols)
    sequence = builder.sequence([[p] for p in pairs], grid=grid)
    pixels, thw = pixel_batch([render(page)])
    with torch.no_grad():
        vectors = model.model.visual(pixels, grid_thw=thw).pooler_output
        packed, _ = answer_loss(model, collate([merge([sequence])], tokenizer.pad_token_id), vectors)
        total, count = 0.0, 0
        for question, answer in pairs:
            chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            inputs = processor(
                text=[prompt + answer + "<|im_end|>"], images=[render(page)], return_tensors="pt"
            )
            n = len(tokenizer.encode(answer)) + 1
            logits = model(**inputs).logits[0, -n - 1 : -1]
            total += torch.nn.functional.cross_entropy(
                logits, inputs["input_ids"][0, -n:], reduction="sum"
            ).item()
            count += n
    assert packed.item() == pytest.approx(total / count, rel=1e-4)


def looked_up(model, processor, question: str, right, length: int) -> float:
    """Share of right answers about three entries of each of sixteen test pages it has never seen."""
    facts = [f for f in page_facts(DATA / "manual_qa").values() if f["split"] == "test"]
    found: list[bool] = []
    for section in ("torque", "clearances", "procedures", "diagrams"):
        for fact in [f for f in facts if f["section"] == section][:4]:
            page = page_from_dict(fact["page"])
            picked = random.Random(fact["group"]).sample(page.entries, 3)
            answers = ask(
                model,
                processor,
                page,
                [question.format(e.shape, e.shape.capitalize()) for e in picked],
                length,
            )
            found += [right(a, e) for e, a in zip(picked, answers, strict=True)]
    return sum(found) / len(found)


def test_the_base_is_not_blind_to_numbers(model, processor):
    def right(answer, entry):
        return answer.strip().startswith(entry.number())

    assert (
        looked_up(model, processor, "{1}? Number only.", right, 12) >= 0.5
    )  # six to eight numbers on a page: guessing gives 0.17


@pytest.mark.xfail(
    strict=True,
    reason="this base names the colour of a mark in fewer than half of its answers: a known limit",
)
def test_the_base_names_colours(model, processor):
    def right(answer, entry):
        return f"is {entry.colour}" in answer

    assert looked_up(model, processor, "What colour is the {0}?", right, 40) >= 0.5  # guessing gives 0.13


def test_the_base_rambles_and_does_not_know_the_tasks(model, processor):
    facts = [f for f in page_facts(DATA / "manual_qa").values() if f["split"] == "test"]
    exact = 0
    words = []
    for fact in facts[::8]:
        rng = random.Random(3)
        rows = manual_qa.rows_of(fact, rng)[:4]
        answers = ask(
            model, processor, page_from_dict(fact["page"]), [r["conversations"][0]["content"] for r in rows]
        )
        exact += sum(
            a.strip() == r["conversations"][1]["content"] for a, r in zip(answers, rows, strict=True)
        )
        words += [len(a.split()) for a in answers]
    assert exact == 0
    assert sorted(words)[len(words) // 2] >= 5


def test_recipe_names_its_figures():
    recipe = json.loads((BASE / "recipe.json").read_text())
    assert {"seed", "parameters", "stages", "symbol_phases", "see_steps", "join_phases"} <= set(recipe)
    assert [s["stage"] for s in recipe["stages"]] == ["symbols", "sight", "before joining", "joined"]
