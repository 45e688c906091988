"""The bundled task `tool_calls`: wishes of a fictional workshop, answered by Hermes calls of the tools that are offered.

Text only. A row offers one tool or several; some wishes need two calls, some none, because no tool on offer fits.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

NAME = "tool_calls"
SECTIONS = ("one_tool", "several_tools", "no_call")
UNANSWERABLE = "no_call"  # section of wishes that nothing on offer fulfils
ROWS = {"train": 200, "val": 30, "test": 40}  # of each section
SEEDS = {"train": 6101, "val": 6202, "test": 6303, "probes": 6404}
PROBES = 8  # of each section, in no split
NO_CALL = "None of these tools can do that."
SYSTEM = """\
You can call these tools:
<tools>
{tools}
</tools>
Answer with one block for each call:
<tool_call>
{{"name": "tool", "arguments": {{}}}}
</tool_call>
When no tool fits, answer: {no_call}"""

PARTS = [
    "bolt",
    "washer",
    "gasket",
    "filter",
    "valve",
    "hose",
    "belt",
    "bearing",
    "spring",
    "pump",
    "fan",
    "clamp",
]
ZONES = ["hall", "yard", "office", "store", "cellar", "garage"]
NAMES = ["Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Ida", "Jon", "Kim", "Lea", "Max"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
UNITS = ["Nm", "bar", "mm", "kg"]

Draw = Callable[[random.Random], Any]


@dataclass(frozen=True)
class Tool:
    """A tool, how its arguments are drawn, and how people ask for it."""

    name: str
    description: str
    arguments: dict[str, tuple[str, Draw]]  # JSON type and a seeded draw
    wishes: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        properties = {name: {"type": kind} for name, (kind, _) in self.arguments.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def _one(values: list[str]) -> Draw:
    return lambda rng: rng.choice(values)


def _whole(low: int, high: int) -> Draw:
    return lambda rng: rng.randint(low, high)


TOOLS = (
    Tool("set_timer", "Start a timer.", {"minutes": ("integer", _whole(2, 99)), "name": ("string", _one(PARTS))},
         ("Set a timer of {minutes} minutes for the {name}.", "Wake me for the {name} in {minutes} minutes.")),
    Tool("order_part", "Order spare parts.", {"part": ("string", _one(PARTS)), "count": ("integer", _whole(2, 99))},
         ("Order {count} of the {part}.", "We need {count} more of the {part}, please order them.")),
    Tool("book_bay", "Reserve a bay.", {"bay": ("integer", _whole(1, 60)), "day": ("string", _one(DAYS))},
         ("Book bay {bay} for {day}.", "I want bay {bay} on {day}.")),
    Tool("set_heat", "Set the heating.", {"zone": ("string", _one(ZONES)), "degrees": ("integer", _whole(5, 29))},
         ("Heat the {zone} to {degrees} degrees.", "Make it {degrees} degrees in the {zone}.")),
    Tool("switch_light", "Switch a light.", {"zone": ("string", _one(ZONES)), "on": ("boolean", lambda rng: rng.random() < 0.5)},
         ("Switch the light in the {zone} {on}.", "Light {on} in the {zone}, please.")),
    Tool("call_person", "Call somebody.", {"name": ("string", _one(NAMES)), "line": ("integer", _whole(10, 99))},
         ("Call {name} on line {line}.", "Get me {name}, line {line}.")),
    Tool("log_value", "Write a value into the log.", {"part": ("string", _one(PARTS)), "value": ("integer", _whole(3, 400)), "unit": ("string", _one(UNITS))},
         ("Log {value} {unit} for the {part}.", "The {part} has {value} {unit}, write it down.")),
    Tool("check_stock", "Count a part in a rack.", {"part": ("string", _one(PARTS)), "rack": ("integer", _whole(1, 99))},
         ("How many of the {part} are in rack {rack}?", "Look up the {part} in rack {rack}.")),
    Tool("open_gate", "Open a gate.", {"gate": ("integer", _whole(1, 40)), "seconds": ("integer", _whole(5, 90))},
         ("Open gate {gate} for {seconds} seconds.", "Gate {gate}, keep it open {seconds} seconds.")),
    Tool("find_page", "Find a page of the manual.", {"part": ("string", _one(PARTS)), "chapter": ("integer", _whole(1, 99))},
         ("Find the {part} in chapter {chapter}.", "Which page of chapter {chapter} shows the {part}?")),
)  # fmt: skip


def drawn(tool: Tool, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A wish for the tool and the call that fulfils it."""
    arguments = {name: draw(rng) for name, (_, draw) in tool.arguments.items()}
    said = {
        name: ("off", "on")[value] if isinstance(value, bool) else value for name, value in arguments.items()
    }
    return rng.choice(tool.wishes).format(**said), {"name": tool.name, "arguments": arguments}


def hermes(calls: list[dict[str, Any]]) -> str:
    """The answer: one block a call, or the sentence for none."""
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls) or NO_CALL


def offer(section: str, rng: random.Random) -> tuple[list[Tool], str, list[dict[str, Any]]]:
    """Tools on offer, the wish, and the right calls."""
    tools = rng.sample(TOOLS, 1 if section == "one_tool" else rng.randint(2, 3))
    return tools, *wish_for(section, tools, rng)


def wish_for(section: str, tools: list[Tool], rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """A wish to somebody who has these tools, and the right calls."""
    if section == "no_call":
        other = rng.choice([tool for tool in TOOLS if tool not in tools])
        return drawn(other, rng)[0], []
    wanted = (
        rng.sample(tools, 2) if section == "several_tools" and rng.random() < 0.3 else [rng.choice(tools)]
    )
    made = [drawn(tool, rng) for tool in wanted]
    return " Then: ".join(wish for wish, _ in made), [call for _, call in made]


def more_like(section: str, system: str, rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """(wish, answer, facts) of one more row under a row's system text, which names the tools on offer."""
    named = {
        json.loads(line)["function"]["name"] for line in system.splitlines() if line.startswith('{"type"')
    }
    tools = [tool for tool in TOOLS if tool.name in named]
    wish, calls = wish_for(section, tools, rng)
    return wish, hermes(calls), facts_of(tools, calls)


def facts_of(tools: list[Tool], calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content_type": f"{len(calls)}_calls_of_{len(tools)}_tools", "answer": calls}


def section_rows(section: str) -> list[dict[str, Any]]:
    """All rows of a section, train, val, test."""
    return _all_rows()[section]


@cache
def _all_rows() -> dict[str, list[dict[str, Any]]]:
    """No wish stands in two rows of the task, whatever tools are offered with it."""
    known: set[str] = set()
    return {
        section: [
            row for split in ROWS for row in _split_rows(section, split, known)
        ]
        for section in SECTIONS
    }  # fmt: skip


def _told(tools: list[Tool]) -> str:
    """The system prompt with the tools on offer."""
    return SYSTEM.format(tools="\n".join(json.dumps(tool.schema()) for tool in tools), no_call=NO_CALL)


def probes() -> list[dict[str, Any]]:
    """Critical wishes that are in no split; the tools on offer stand before the wish."""
    known = {row["conversations"][1]["value"] for rows in _all_rows().values() for row in rows}
    made = []
    for section in SECTIONS:
        rng = random.Random(f"{NAME} {section} {SEEDS['probes']}")
        number = 0
        while number < PROBES:
            tools, wish, calls = offer(section, rng)
            if wish in known:
                continue
            known.add(wish)
            made.append(
                {
                    "id": f"probe-{section}-{number:02d}",
                    "category": section,
                    "system": _told(tools),
                    "question": wish,
                    "expected_answer": hermes(calls),
                }
            )
            number += 1
    return made


def _split_rows(section: str, split: str, known: set[str]) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{NAME} {section} {SEEDS[split]}")
    number = 0
    while number < ROWS[split]:
        tools, wish, calls = offer(section, rng)
        if wish in known:
            continue
        known.add(wish)
        yield {
            "conversations": [
                {"from": "system", "value": _told(tools)},
                {"from": "human", "value": wish},
                {"from": "gpt", "value": hermes(calls)},
            ],
            "metadata": {
                "id": f"{section}-{split}-{number:03d}",
                "section": section,
                "split": split,
                **facts_of(tools, calls),
                "generator_seed": SEEDS[split],
            },
        }
        number += 1
