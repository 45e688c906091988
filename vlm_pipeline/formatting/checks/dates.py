"""21: a row must render the same in training, in evaluation next week and in service next year.

Rows themselves are rendered on two dates, one of each shape: a template may write the date only beside tools, or only
into the system prompt that it makes up for rows without one.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from vlm_pipeline.formatting.checks.evidence import Evidence, Model
from vlm_pipeline.formatting.conversation import Conversation, template_messages
from vlm_pipeline.formatting.skeleton import shape_of
from vlm_pipeline.formatting.template import RenderError, render_text, template_of

_DAYS = (datetime.datetime(2024, 7, 26), datetime.datetime(2031, 1, 2))
_ANY = (
    {"role": "user", "content": "zqb"},
    {"role": "assistant", "content": "zqc"},
)  # for rows that do not tell their turns
_SYSTEM = {"role": "system", "content": "zqa"}


class Dates:
    """Looks at one row of each shape."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._template = str(template_of(model.processor))
        self._seen: set[str] = set()

    def check(self, row: Evidence) -> None:
        if "strftime_now" not in self._template:
            return
        talk = Conversation(row.messages or list(_ANY), [], row.tools)
        shape = shape_of(talk)
        if shape in self._seen:
            return
        self._seen.add(shape)
        if self._dated(talk, {}):
            row.add(
                21,
                "the template writes today's date into rows of this shape: trained on one day, they are asked differently "
                "the next",
                self._remedy(talk),
            )

    def _dated(self, talk: Conversation, arguments: dict[str, Any]) -> bool | None:
        """Does the rendering depend on the day? None where this template cannot render it; other checks say so."""
        messages = template_messages(talk, self._model.parts)
        given = {**self._model.prompt.template_args, **arguments}
        try:
            texts = {
                render_text(
                    self._model.processor, messages, talk.tools, {**given, "strftime_now": day.strftime}
                )
                for day in _DAYS
            }
        except RenderError:
            return None
        return len(texts) > 1

    def _remedy(self, talk: Conversation) -> str:
        """What was tried and makes this row the same on all days."""
        for name in self._variables():
            if self._dated(talk, {name: "26 Jul 2024"}) is False:
                return f"fix it in task.yaml, prompt.template_args: {{{name}: 26 Jul 2024}}"
        own = [message for message in talk.messages if message["role"] != "system"]
        if self._dated(Conversation([_SYSTEM, *own], [], talk.tools), {}) is False:
            return "give the rows a system prompt of their own, for example by prompt.system in task.yaml"
        return "write a fixed date in place of strftime_now in the chat template of the model's folder"

    def _variables(self) -> list[str]:
        """Names that the template reads, nobody sets, and that sound like a day."""
        from jinja2 import Environment, TemplateSyntaxError, meta

        try:
            found = meta.find_undeclared_variables(Environment().parse(self._template))
        except TemplateSyntaxError:  # an extension of transformers, such as generation blocks
            found = {"date_string"}
        return sorted(name for name in found - {"strftime_now"} if re.search("date|day|time", name))
