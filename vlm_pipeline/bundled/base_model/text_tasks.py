"""Text exercises of the embedded base: copying, looking up, quoting, writing lists and small objects.

Each exercise is a shared context and several independent questions about it. Formats of the bundled tasks are
not taught, only what they stand on: copying words, numbers, brackets and quotes without a slip.
"""

from __future__ import annotations

import json
import random

from vlm_pipeline.bundled.base_model.words import ADJECTIVES, DAYS, KEYS, NAMES, NOUNS, PLACES, VERBS

Pair = tuple[str, str]
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def nonsense(rng: random.Random) -> str:
    """A word nobody has seen, so that copying cannot lean on memory."""
    return "".join(
        rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3))
    ) + rng.choice(["", "n", "r", "x", "st"])


def word(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.55:
        return rng.choice(NOUNS)
    if roll < 0.75:
        return rng.choice(ADJECTIVES)
    return nonsense(rng) if roll < 0.92 else rng.choice(NAMES)


def number(rng: random.Random) -> str:
    return rng.choice(
        [
            str(rng.randint(0, 99)),
            str(rng.randint(100, 9999)),
            f"{rng.randint(1, 999) / 10:.1f}",
            f"{rng.random():.2f}",
        ]
    )


def phrase(rng: random.Random, low: int = 1, high: int = 5) -> str:
    return " ".join(number(rng) if rng.random() < 0.15 else word(rng) for _ in range(rng.randint(low, high)))


def scalar(rng: random.Random) -> object:
    roll = rng.random()
    if roll < 0.35:
        return phrase(rng, 1, 3)
    if roll < 0.6:
        return rng.choice([rng.randint(0, 99), rng.randint(100, 2999), round(rng.random() * 100, 1)])
    if roll < 0.75:
        return rng.choice(NAMES + PLACES)
    if roll < 0.85:
        return rng.choice([True, False])
    if roll < 0.95:
        return f"{rng.randint(2010, 2030)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    return [word(rng) for _ in range(rng.randint(1, 3))]


def key(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.6:
        return rng.choice(KEYS)
    if roll < 0.85:
        return f"{rng.choice(KEYS)}_{rng.choice(KEYS + NOUNS)}"
    return f"{nonsense(rng)}_{rng.choice(KEYS)}" if rng.random() < 0.5 else nonsense(rng)


def show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def copy_task(rng: random.Random) -> tuple[str, list[Pair]]:
    pairs: list[Pair] = []
    for _ in range(4):
        text = phrase(rng, 1, 12)
        if rng.random() < 0.3:
            text = rng.choice(['"{}"', "({})", "[{}]", "{{{}}}", "<{}>", "'{}'"]).format(text)
        if rng.random() < 0.2:
            text += rng.choice([".", "!", "?", ":", ";", ","]) + " " + phrase(rng, 1, 4)
        ask = rng.choice(
            ["Repeat: {}", "Copy this: {}", "Say exactly: {}", "Write down: {}", "{}\nRepeat that."]
        )
        pairs.append((ask.format(text), text))
    return "", pairs


def echo_task(rng: random.Random) -> tuple[str, list[Pair]]:
    """Long spans of anything, said once more: the densest way to learn copying."""
    text = phrase(rng, 12, 30)
    if rng.random() < 0.4:
        words = text.split(" ")
        for _ in range(rng.randint(1, 4)):
            opening, closing = rng.choice(['""', "()", "[]", "{}", "<>", "''"])
            spot = rng.randrange(len(words))
            words[spot] = f"{opening}{words[spot]}{closing}"
        text = rng.choice([" ", " ", ", ", "\n", "_"]).join(words)
    return "", [(f"Repeat: {text}", text)]


def brackets_task(rng: random.Random) -> tuple[str, list[Pair]]:
    marks = rng.sample(
        [
            ("quotes", '"', '"'),
            ("brackets", "[", "]"),
            ("parentheses", "(", ")"),
            ("braces", "{", "}"),
            ("angle brackets", "<", ">"),
        ],
        rng.randint(2, 3),
    )
    inside = [phrase(rng, 1, 5) for _ in marks]
    text = (
        " ".join(f"{phrase(rng, 1, 3)} {o}{t}{c}" for (_, o, c), t in zip(marks, inside, strict=True))
        + " "
        + phrase(rng, 1, 3)
    )
    pairs = []
    for (name, opening, closing), content in zip(marks, inside, strict=True):
        if rng.random() < 0.5:
            pairs.append((rng.choice([f"What is inside the {name}?", f"Text in {name}?"]), content))
        else:
            pairs.append((f"Copy the {name} with their content.", f"{opening}{content}{closing}"))
    return text, pairs


def table_task(rng: random.Random) -> tuple[str, list[Pair]]:
    """Keys and values as lines, as an object, or as a sentence; ask for one, several, or all as an object."""
    names: list[str] = []
    while len(names) < rng.randint(3, 7):
        if (new := key(rng)) not in names:
            names.append(new)
    facts = {name: scalar(rng) for name in names}
    style = rng.random()
    if style < 0.4:
        text = "\n".join(f"{k}: {show(v)}" for k, v in facts.items())
    elif style < 0.75:
        text = json.dumps(facts)
    else:
        text = ", ".join(f"{k} is {show(v)}" for k, v in facts.items())
    pairs: list[Pair] = []
    for name in rng.sample(names, min(3, len(names))):
        value = show(facts[name])
        pairs.append(
            rng.choice(
                [
                    (f"What is {name}?", f"{name} is {value}."),
                    (f"Value of {name}?", value),
                    (f"Look up {name}.", value),
                    (f"{name}?", f"It is {value}."),
                ]
            )
        )
    some = rng.sample(names, rng.randint(1, min(3, len(names))))
    listed = " and ".join(some)
    pairs.append(
        (
            rng.choice([f"Write {listed} as JSON.", f"Give me an object with {listed}."]),
            json.dumps({k: facts[k] for k in some}),
        )
    )
    whole = rng.choice(names)
    if not isinstance(facts[whole], list):
        pairs.append(
            (
                f"Which key holds {show(facts[whole])}?",
                whole
                if [show(v) for v in facts.values()].count(show(facts[whole])) == 1
                else names[[show(v) for v in facts.values()].index(show(facts[whole]))],
            )
        )
    return text, pairs


def story_task(rng: random.Random) -> tuple[str, list[Pair]]:
    """Short sentences with people, things, places and numbers; ask for a part, quote a sentence, say what is missing."""
    people = rng.sample(NAMES, rng.randint(2, 5))
    sentences, pairs = [], []
    for person in people[: max(2, len(people) - 1)]:
        verb, count, place, day = rng.choice(VERBS), rng.randint(2, 99), rng.choice(PLACES), rng.choice(DAYS)
        thing = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" if rng.random() < 0.6 else nonsense(rng)
        sentence = f"{person} {verb} {count} {thing} in {place} on {day}."
        sentences.append(sentence)
        pairs += [
            (f"How many {thing} were {verb if verb not in ('bought',) else 'bought'} by {person}?", f"{person} {verb} {count}."),
            (f"Where was {person}?", f"{person} was in {place}."),
            (f"When was {person} in {place}?", f"On {day}."),
            (rng.choice([f"Quote the sentence about {person}.", f"Which sentence names {person}?"]), sentence),
            (rng.choice([f"What did {person} do?", f"Tell me about {person}."]), f"{person} {verb} {count} {thing}."),
            (f"Who was in {place}?", f"{person} was in {place}.") if rng.random() < 0.5 else (f"Whose number is {count}?", f"It is the number of {person}."),
        ]  # fmt: skip
    missing = rng.choice([n for n in NAMES if n not in people])
    pairs.append((f"Where was {missing}?", f"The text does not mention {missing}."))
    rng.shuffle(sentences)
    return " ".join(sentences), rng.sample(pairs, min(6, len(pairs)))


def list_task(rng: random.Random) -> tuple[str, list[Pair]]:
    items = list(dict.fromkeys(phrase(rng, 1, 2) for _ in range(rng.randint(3, 7))))
    text = (
        "\n".join(f"{i + 1}. {item}" for i, item in enumerate(items))
        if rng.random() < 0.5
        else ", ".join(items)
    )
    spot = rng.randrange(len(items))
    pairs = [
        (f"What is item {spot + 1}?", f"Item {spot + 1} is {items[spot]}."),
        ("What comes last?", f"{items[-1]} comes last."),
        ("Write the items as a JSON list.", json.dumps(items)),
        (f"Is {items[spot]} in the list?", f"Yes, {items[spot]} is item {spot + 1}."),
    ]
    if spot + 1 < len(items):
        pairs.append((f"What follows {items[spot]}?", f"{items[spot + 1]} follows {items[spot]}."))
    return text, pairs


def talk_task(rng: random.Random) -> tuple[str, list[Pair]]:
    name = rng.choice(NAMES)
    return "", [
        ("Hello!", "Hello! How can I help you?"),
        (f"My name is {name}.", f"Hello {name}, nice to meet you."),
        ("Thank you.", "You are welcome."),
        ("Who are you?", "I am a small model that was trained to look at simple pages."),
        ("What is shown in the picture?", "There is no picture in this chat."),
    ]


def text_exercise(rng: random.Random) -> tuple[str, list[Pair]]:
    """A context (may be empty) and independent questions about it."""
    tasks = [echo_task, copy_task, brackets_task, table_task, story_task, list_task, talk_task]
    return rng.choices(tasks, [2, 2, 1.5, 4, 2.5, 1.5, 0.2])[0](rng)
