"""The three stages that make the embedded base, each measured before the next.

1. ``read_symbols``: the language model learns lookups on symbolic image tokens, and copying on text.
2. ``see``: the vision tower learns, from pixels, first every feature of every tile, then the symbols' vectors.
3. ``join``: the language model goes on with what the tower really says.

Small tasks first, then everything: a lookup trained end to end from pixels stays on its plateau for tens of
thousands of pages; in this order each step takes minutes on two cores.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from vlm_pipeline.bundled.base_model.drills import Driller
from vlm_pipeline.bundled.base_model.model import (
    IGNORE,
    Builder,
    Oracle,
    Sequence_,
    answer_loss,
    collate,
    merge,
)
from vlm_pipeline.bundled.base_model.page_view import STRANGE
from vlm_pipeline.bundled.base_model.questions import Asker
from vlm_pipeline.bundled.base_model.random_pages import random_page
from vlm_pipeline.bundled.base_model.text_tasks import echo_task, text_exercise
from vlm_pipeline.bundled.base_model.vision import DenseHeads, pixel_batch
from vlm_pipeline.bundled.pages import Page, render, token_features

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 6  # sequences in one forward pass; short ones go together
TEXT_ROW = 220  # text exercises share a row up to about this many tokens

VALUES = {"drill_values": 1.0}
KEYS = {
    "drill_values": 2.0, "drill_full": 3.0, "drill_back": 4.0, "drill_by_colour": 4.0, "drill_colours": 2.0,
    "drill_steps": 2.0, "drill_counts": 1.0, "drill_colour_names": 2.0,
}  # fmt: skip
DRILLS = {"drill": 1.0}
MIXED = {
    "drill": 3.0,
    "read_shuffled": 1.0,
    "number_only": 3.0,
    "value": 1.0,
    "bounds": 1.0,
    "which_has": 1.0,
}
LOOKUPS = {
    "read_shuffled": 1.0, "number_only": 4.0, "value": 3.0, "unit": 0.5, "colour": 0.7, "value_by_colour": 1.5,
    "which_has": 2.0, "bounds": 3.0, "value_by_place": 2.0, "count": 1.0, "two_values": 1.0, "neighbour": 1.5,
    "step_of": 1.0, "follows": 1.0,
}  # fmt: skip


@dataclass
class Phase:
    """So many steps of the same mixture: pages with questions of some kinds (None: all), and rows of text."""

    steps: int
    pages: int
    questions: int
    kinds: dict[str, float] | None
    texts: int
    echo: bool = False  # the text rows are long spans to repeat
    drills: int = 0  # drills beside the questions on every page
    strange: float = STRANGE  # share of questions about something the page does not show
    gaps: bool = True  # drills may put something between a name and its value


SYMBOL_PHASES = [
    Phase(110, 24, 2, VALUES, 0, strange=0.0, gaps=False),
    Phase(250, 20, 4, KEYS, 0, strange=0.0),
    Phase(250, 20, 4, DRILLS, 1, echo=True, strange=0.0),
    Phase(250, 16, 5, MIXED, 4, echo=True, strange=0.0),
    Phase(400, 12, 5, LOOKUPS, 5, echo=True, drills=2),
    Phase(1100, 12, 4, None, 6, drills=2),
]
JOIN_PHASES = [Phase(200, 10, 4, None, 10, echo=True, drills=3), Phase(220, 10, 4, None, 10, drills=3)]


def rows_of(phases: Sequence[Phase], number: int, builder: Builder, rng: random.Random) -> list[Item]:
    """The rows of step ``number``, counted over all phases."""
    for phase in phases:
        if number < phase.steps:
            break
        number -= phase.steps
    items = [
        page_item(builder, rng, phase.questions, phase.kinds, phase.strange, phase.drills, phase.gaps)
        for _ in range(phase.pages)
    ]
    return items + [text_item(builder, rng, phase.echo) for _ in range(phase.texts)]


@dataclass
class Item:
    """One row of a batch: a sequence and, where it shows pages, the pages."""

    sequence: Sequence_
    pages: list[Page] = field(default_factory=list)


def page_item(
    builder: Builder,
    rng: random.Random,
    questions: int,
    kinds: dict[str, float] | None,
    strange: float = STRANGE,
    more_drills: int = 0,
    gaps: bool = True,
) -> Item:
    """A page with its questions; ``kinds`` narrows them (weights by method name), None asks everything.

    ``drill`` stands for any drill, ``drill_values`` for drills in values and so on.
    """
    while True:
        page = random_page(rng)
        asker, driller = Asker(page, rng, strange), Driller(page, rng, strange, gaps)
        if kinds is None:
            pairs = asker.ask(questions)
        else:
            names = rng.choices(list(kinds), list(kinds.values()), k=questions)
            asks = [
                getattr(driller, name.removeprefix("drill_"))
                if name.startswith("drill")
                else getattr(asker, name)
                for name in names
            ]
            pairs = [pair for pair in (ask() for ask in asks) if pair]
        if not pairs:
            continue
        branches = [[pair] for pair in pairs]
        if kinds is None and rng.random() < 0.15:  # a few chats of two turns
            branches = [pairs[i : i + 2] for i in range(0, len(pairs), 2)]
        branches += [[pair] for pair in (driller.drill() for _ in range(more_drills)) if pair]
        system = rng.choice(SYSTEMS) if kinds is None and rng.random() < 0.2 else ""
        return Item(builder.sequence(branches, grid=(page.rows, page.cols), system=system), [page])


SYSTEMS = [
    "You are a helpful assistant.", "Answer the question.", "Look at the picture and answer.", "Be friendly.",
    "You help people in a workshop.", "You describe streets.", "Keep to what you can see.",
]  # fmt: skip


def text_item(builder: Builder, rng: random.Random, echo: bool = False) -> Item:
    row: list[Sequence_] = []
    while sum(len(s.ids) for s in row) < TEXT_ROW:
        context, pairs = echo_task(rng) if echo else text_exercise(rng)
        system = rng.choice(SYSTEMS) if rng.random() < 0.1 else ""
        row.append(builder.sequence([[p] for p in pairs], context=context, system=system))
    return Item(merge(row))


def micro_batches(items: list[Item], pad: int) -> list[tuple[dict[str, torch.Tensor], list[Page]]]:
    """Rows of like length together: less padding, smaller working set."""
    items = sorted(items, key=lambda item: len(item.sequence.ids))
    groups = [items[i : i + ROWS_AT_ONCE] for i in range(0, len(items), ROWS_AT_ONCE)]
    return [(collate([i.sequence for i in g], pad), [p for i in g for p in i.pages]) for g in groups]


def features_of(pages: Sequence[Page]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([token_features(page) for page in pages]))


class Optimizers:
    """Muon for matrices, AdamW for the rest; warm-up, a plateau, and a linear fall over the last part."""

    def __init__(self, modules: Sequence[nn.Module], steps: int, muon: float, adam: float, fall: float = 0.4):
        named = [(n, p) for module in modules for n, p in module.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
        chosen = {id(p) for p in matrices}
        self.rest = [p for _, p in named if id(p) not in chosen]
        self.parts = [
            (torch.optim.Muon(matrices, lr=muon, momentum=0.95, weight_decay=0.01), muon),
            (torch.optim.AdamW(self.rest, lr=adam, betas=(0.9, 0.97), weight_decay=0.0), adam),
        ]
        self.steps, self.fall, self.warm = steps, fall, min(50, max(1, steps // 10))

    def step(self, number: int) -> None:
        scale = min(1.0, (number + 1) / self.warm, (self.steps - number) / (self.fall * self.steps))
        nn.utils.clip_grad_norm_(self.rest, 1.0)
        for optimizer, rate in self.parts:
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Progress:
    """One line every so many steps, with the time left."""

    def __init__(self, stage: str, steps: int, every: int = 50):
        self.stage, self.steps, self.every, self.start = stage, steps, every, time.monotonic()
        self.losses: list[float] = []

    def tell(self, number: int, loss: float, note: Callable[[], str] = str) -> None:
        self.losses.append(loss)
        if (number + 1) % self.every == 0 or number + 1 == self.steps:
            spent = time.monotonic() - self.start
            left = spent / (number + 1) * (self.steps - number - 1)
            mean = np.mean(self.losses[-self.every :])
            log.info(
                "%s %d/%d loss %.3f, %.0f s, %.0f s left %s",
                self.stage,
                number + 1,
                self.steps,
                mean,
                spent,
                left,
                note(),
            )


def train_language(
    model: nn.Module,
    vectors: Callable[[list[Page]], torch.Tensor],
    builder: Builder,
    rng: random.Random,
    *,
    stage: str,
    phases: Sequence[Phase],
    modules: Sequence[nn.Module],
    muon: float = 0.02,
    adam: float = 3e-3,
    fall: float = 0.4,
    note: Callable[[], str] = str,
) -> None:
    """The loop of stages 1 and 3. ``vectors`` gives the image vectors of pages."""
    steps = sum(phase.steps for phase in phases)
    optimizers, progress = Optimizers(modules, steps, muon, adam, fall), Progress(stage, steps)
    pad = builder.tokenizer.pad_token_id
    for number in range(steps):
        batches = micro_batches(rows_of(phases, number, builder, rng), pad)
        total = sum(int((batch["labels"] != IGNORE).sum()) for batch, _ in batches)
        step_loss = 0.0
        for batch, pages in batches:
            loss, right = answer_loss(model, batch, vectors(pages) if pages else None)
            share = len(right) / total
            (loss * share).backward()
            step_loss += loss.item() * share
        optimizers.step(number)
        progress.tell(number, step_loss, note)


def read_symbols(
    model: nn.Module, oracle: Oracle, builder: Builder, seed: int,
    phases: Sequence[Phase] = tuple(SYMBOL_PHASES), note: Callable[[], str] = str,
) -> None:  # fmt: skip
    """Stage 1: from drill to everything, on symbolic image tokens."""
    train_language(
        model, lambda pages: oracle(features_of(pages)), builder, random.Random(seed), stage="read symbols",
        phases=phases, modules=[model.model.language_model], note=note,
    )  # fmt: skip


def see(
    model: nn.Module, oracle: Oracle, seed: int, steps: tuple[int, int], pages: int = 12
) -> dict[str, float]:
    """Stage 2. ``steps``: naming features with throw-away heads, then producing the symbols' vectors.

    Between the two the last layer is solved for by least squares: a vector is linear in the features, and so is
    what a head reads. Returns the share of tiles with every feature right after the first part, and the
    unexplained variance of the vectors after the second.
    """
    torch.manual_seed(seed)
    rng, grain = random.Random(seed), np.random.default_rng(seed)
    tower, heads = model.model.visual, DenseHeads(model.config.text_config.hidden_size)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        batch = [random_page(rng) for _ in range(pages)]
        pixels, grid = pixel_batch([render(page) for page in batch], 0.02, grain)
        return tower(pixels, grid_thw=grid).pooler_output, features_of(batch)

    naming, shares = steps[0], []
    optimizers, progress = (
        Optimizers([tower, heads], naming, 0.02, 2e-3, fall=0.5),
        Progress("name tiles", naming),
    )
    for number in range(naming):
        loss, right = heads(*draw())
        loss.backward()
        optimizers.step(number)
        shares.append(right.all(1).float().mean().item())
        progress.tell(number, loss.item(), lambda: f"all right {np.mean(shares[-10:]):.3f}")

    solve_last_layer(tower, oracle, draw)
    drawing, gaps = steps[1], []
    optimizers, progress = (
        Optimizers([tower], drawing, 0.005, 1e-3, fall=0.9),
        Progress("learn vectors", drawing),
    )
    for number in range(drawing):
        tokens, features = draw()
        target = oracle(features)
        loss = ((tokens - target) ** 2).mean() / target.var()
        loss.backward()
        optimizers.step(number)
        gaps.append(loss.item())
        progress.tell(number, gaps[-1])
    return {
        "tiles_all_right": round(float(np.mean(shares[-10:])), 4),
        "unexplained_variance": round(float(np.mean(gaps[-10:])), 4),
    }


def solve_last_layer(
    tower: nn.Module, oracle: Oracle, draw: Callable[[], tuple[torch.Tensor, torch.Tensor]], batches: int = 60
) -> None:
    """Set the merger's last linear layer to the least-squares map from its input to the symbols' vectors."""
    last = tower.merger.mlp[2]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        wanted = torch.cat([oracle(draw()[1]) for _ in range(batches)]).double()
        inputs = torch.cat(seen).double()
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        gram = inputs.T @ inputs
        gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        solution = torch.linalg.solve(gram, inputs.T @ wanted)
        last.weight.copy_(solution[:-1].T)
        last.bias.copy_(solution[-1])
    hook.remove()


def tower_vectors(
    model: nn.Module, grain: np.random.Generator | None = None
) -> Callable[[list[Page]], torch.Tensor]:
    """What the tower says about drawn pages, without gradients."""

    def vectors(pages: list[Page]) -> torch.Tensor:
        with torch.no_grad():
            pixels, grid = pixel_batch(
                [render(page) for page in pages], 0.02 if grain is not None else 0.0, grain
            )
            return model.model.visual(pixels, grid_thw=grid).pooler_output

    return vectors


def join(
    model: nn.Module, builder: Builder, seed: int, phases: Sequence[Phase] = tuple(JOIN_PHASES),
    note: Callable[[], str] = str,
) -> None:  # fmt: skip
    """Stage 3: everything again, on the tower's own vectors, with smaller steps; the tower stays as it is."""
    train_language(
        model, tower_vectors(model, np.random.default_rng(seed)), builder, random.Random(seed), stage="join",
        phases=phases, modules=[model.model.language_model], muon=0.012, adam=2e-3, fall=0.9, note=note,
    )  # fmt: skip


def measure(
    model: nn.Module,
    builder: Builder,
    vectors: Callable[[list[Page]], torch.Tensor],
    seed: int = 99,
    rows: int = 24,
) -> dict[str, Any]:
    """Share of right answer tokens (given the answer so far) by kind of question; digits only, where there are any."""
    rng = random.Random(seed)
    digits = set(builder.tokenizer.convert_tokens_to_ids(list("0123456789")))
    figures: dict[str, Any] = {}
    kinds = [
        "drill",
        "number_only",
        "value",
        "value_by_place",
        "bounds",
        "which_has",
        "count",
        "compare",
        "neighbour",
        "step_of",
        "follows",
        "read_all",
    ]
    for kind in [*kinds, "text"]:
        items = [
            text_item(builder, rng)
            if kind == "text"
            else page_item(builder, rng, 4, {kind: 1.0}, strange=0.0)
            for _ in range(rows)
        ]
        all_right, digit_right = [], []
        for batch, pages in micro_batches(items, builder.tokenizer.pad_token_id):
            with torch.no_grad():
                _, right = answer_loss(model, batch, vectors(pages) if pages else None)
            labels = batch["labels"][:, 1:]
            chosen = labels[labels != IGNORE]
            is_digit = torch.tensor([int(t) in digits for t in chosen])
            all_right.append(right)
            digit_right.append(right[is_digit])
        figures[kind] = round(torch.cat(all_right).float().mean().item(), 3)
        found = torch.cat(digit_right)
        if len(found):
            figures[f"{kind}_digits"] = round(found.float().mean().item(), 3)
    return figures
