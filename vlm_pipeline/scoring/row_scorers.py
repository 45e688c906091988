"""One row scorer per family: a gold answer and a response in, named values out.

``build_scorer(settings)`` is the one door. A scorer is pure: no clock, no network, no state between rows.
Its ``version`` is derived from the source of every module it uses and from its settings, so stored predictions
are scored again when, and only when, the way of scoring changed.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from vlm_pipeline.scoring.results import Context, GoldError, Reference, RowScore
from vlm_pipeline.settings.scoring import ScorerSettings
from vlm_pipeline.store import content_hash

_PACKAGE = "vlm_pipeline.scoring"
_FOLDER = Path(__file__).parent

# Kind -> (module, class); modules are imported on first use, so that no task pays for pint it does not need.
_FAMILIES = {
    "score": ("numeric_rows", "ScoreScorer"),
    "number": ("numeric_rows", "NumberScorer"),
    "quantity": ("quantity_rows", "QuantityScorer"),
    "relaxed": ("text_rows", "RelaxedScorer"),
    "text": ("text_rows", "TextScorer"),
    "keywords": ("text_rows", "KeywordScorer"),
    "choice": ("text_rows", "ChoiceScorer"),
    "tool_calls": ("tool_rows", "ToolCallScorer"),
    "sections": ("section_rows", "SectionScorer"),
}


class RowScorer(Protocol):
    """What every family offers."""

    name: str
    kind: str
    version: str
    bar: float  # of the headline value

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        """Read the gold answer of a row; an unreadable one comes back as a GoldError, never raised."""
        ...

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: Context = None
    ) -> RowScore:
        """Score one response; any string is accepted. ``context``: the text that the answer may rest on, or the numbers
        that its page is known to show."""
        ...


def build_scorer(settings: ScorerSettings) -> RowScorer:
    """The scorer that the settings describe."""
    module, name = _FAMILIES[settings.kind]
    scorer_class = getattr(import_module(f"{_PACKAGE}.{module}"), name)
    return scorer_class(settings, version=scorer_version(settings))


def scorer_version(settings: ScorerSettings) -> str:
    """Twelve hex digits over the settings and the source of all modules that this kind of scorer uses."""
    module, _ = _FAMILIES[settings.kind]
    return content_hash(
        [settings.model_dump(mode="json", exclude={"threshold"}), source_version(module)], length=12
    )


def source_version(module: str) -> str:
    """Hash of the source of a module of this package and of all modules of the package that it uses."""
    return content_hash({name: _source(name) for name in modules_used(module)})


@cache
def modules_used(module: str) -> tuple[str, ...]:
    """Names of the modules of this package that ``module`` imports, itself and indirect ones included."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        for node in ast.walk(ast.parse(_source(current))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE + "."):
                queue.append(node.module.removeprefix(_PACKAGE + "."))
    return tuple(sorted(seen))


@cache
def _source(module: str) -> str:
    return (_FOLDER / f"{module}.py").read_text("utf-8")
