"""Which rows share what, and how an epoch is cut into steps and passes: pure planning, no tensor and no model.

Rows of one image (or one document, or one long system prompt) share their first tokens. A group puts that prefix
once, then each row's remaining tokens as a branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_pipeline.training.rows import Row, Rows, Tokens

SHORTEST_PREFIX = 16  # tokens; below this sharing costs more than it saves
_KEY_TOKENS = 64  # rows without an image are taken together by this many first tokens


@dataclass(frozen=True, slots=True)
class Bundle:
    """Rows (by index) that go into one group, and how many first tokens they share."""

    rows: tuple[int, ...]
    prefix: int
    tokens: int  # of the packed group


def shared_prefix(rows: Sequence[Row | Tokens], image_token: int | None) -> int:
    """How many first tokens the rows share; ends before the token that predicts the first supervised one,
    and never inside an image. Rows must show the same images.
    """
    limit = min(min(row.first_supervised, len(row.input_ids)) - 1 for row in rows)
    first = rows[0].input_ids
    for row in rows[1:]:
        differing = np.flatnonzero(first[:limit] != row.input_ids[:limit])
        limit = int(differing[0]) if len(differing) else limit
    limit = max(limit, 0)
    if image_token is not None:
        while 0 < limit < len(first) and first[limit] == image_token and first[limit - 1] == image_token:
            limit -= 1
    return limit


class Packer:
    """Plans epochs: which rows form a group, which groups an optimizer step, which groups a forward pass.

    The steps depend on rows and seed alone; the token budget only cuts a step into forward passes. So a budget
    halved by lack of memory changes neither the schedule nor, exactly, the gradient.
    """

    def __init__(
        self, rows: Rows, *, rows_per_step: int, image_token: int | None, share: bool, seed: int
    ) -> None:
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.lengths = rows.lengths
        everything = (np.arange(len(rows)), 0)
        self.families = self._find_families(image_token) if share else [everything]

    def _find_families(self, image_token: int | None) -> list[tuple[np.ndarray, int]]:
        """Families of rows with a shared prefix, as (row indices, prefix). Rows that share nothing form one, prefix 0."""
        by_image: dict[tuple[str, ...], list[int]] = {}
        shown = self.rows.shown()
        for index, key in enumerate(shown):
            by_image.setdefault(key, []).append(index)
        families, alone = self._with_prefix(by_image.values(), image_token)
        by_beginning: dict[bytes, list[int]] = {}
        for index in alone:
            if shown[index][0] == "group":
                beginning = self.rows.tokens(index).input_ids[:_KEY_TOKENS].tobytes()
                by_beginning.setdefault(beginning, []).append(index)
        more, _ = self._with_prefix(by_beginning.values(), image_token)
        families += more
        taken = {index for members, _ in families for index in members}
        rest = [index for index in range(len(self.rows)) if index not in taken]
        return [*families, (np.array(rest), 0)] if rest else families

    def _with_prefix(
        self, candidates: Iterable[list[int]], image_token: int | None
    ) -> tuple[list[tuple[np.ndarray, int]], list[int]]:
        families, alone = [], []
        for members in candidates:
            prefix = (
                shared_prefix([self.rows.tokens(index) for index in members], image_token)
                if len(members) > 1
                else 0
            )
            if prefix >= SHORTEST_PREFIX:
                families.append((np.array(members), prefix))
            else:
                alone += members
        return families, alone

    def shortest_pair(self, with_images: bool) -> Bundle | None:
        """The two shortest rows of a family whose rows show images (or show none), of one that shares if there is one."""
        candidates = []
        for members, prefix in self.families:
            fitting = members[self.rows.has_images[members] == with_images]
            pair = fitting[np.argsort(self.lengths[fitting], kind="stable")[:2]]
            if len(pair):
                candidates.append((not prefix, -len(pair), self._bundle(pair.tolist(), prefix)))
        return min(candidates, key=lambda one: (*one[:2], one[2].tokens))[2] if candidates else None

    def epoch(self, number: int) -> list[list[Bundle]]:
        """The optimizer steps of an epoch, each a list of bundles. Same seed and number, same plan.

        Groups are shuffled, and the rows of a group too, so that a group cut over several steps is cut differently
        in each epoch.
        """
        random = np.random.default_rng([self.seed, number])
        bundles = [
            bundle
            for members, prefix in self.families
            for bundle in self._cut(random.permutation(members), prefix)
        ]
        order = random.permutation(len(bundles))
        total = len(self.rows)
        n_steps = max(1, round(total / self.rows_per_step))
        steps: list[list[Bundle]] = [[] for _ in range(n_steps)]
        before = 0
        for bundle in (bundles[position] for position in order):
            middle = before + len(bundle.rows) / 2
            steps[min(n_steps - 1, int(middle / total * n_steps))].append(bundle)
            before += len(bundle.rows)
        return [step for step in steps if step]

    def _cut(self, members: np.ndarray, prefix: int) -> list[Bundle]:
        """A family in bundles of at most a step's rows; rows that share nothing, one by one."""
        if not prefix:
            single = zip(members.tolist(), self.lengths[members].tolist(), strict=True)
            return [Bundle((index,), 0, length) for index, length in single]
        pieces = np.array_split(members, -(-len(members) // self.rows_per_step))
        return [self._bundle(piece.tolist(), prefix) for piece in pieces]

    def _bundle(self, rows: list[int], prefix: int) -> Bundle:
        prefix = prefix if len(rows) > 1 else 0
        return Bundle(tuple(rows), prefix, int(self.lengths[rows].sum()) - (len(rows) - 1) * prefix)

    def passes(
        self, bundles: Iterable[Bundle], token_budget: int, padded: bool = False
    ) -> list[list[Bundle]]:
        """Cut and fill forward passes up to the budget; one row over the budget gets a pass of its own.

        padded: rows lie beside each other, as wide as the longest, in place of one after the other.
        """
        if padded:
            return self._padded_passes([index for bundle in bundles for index in bundle.rows], token_budget)
        small = [part for bundle in bundles for part in self._split(bundle, token_budget)]
        passes: list[list[Bundle]] = []
        room: list[int] = []
        for bundle in sorted(small, key=lambda bundle: -bundle.tokens):
            fits = next((place for place, left in enumerate(room) if bundle.tokens <= left), None)
            if fits is None:
                passes.append([bundle])
                room.append(token_budget - bundle.tokens)
            else:
                passes[fits].append(bundle)
                room[fits] -= bundle.tokens
        return passes

    def _padded_passes(self, rows: list[int], token_budget: int) -> list[list[Bundle]]:
        """Rows of like length together: the budget holds width times rows."""
        passes: list[list[Bundle]] = []
        for index in sorted(rows, key=lambda index: (-self.lengths[index], index)):
            if not passes or passes[-1][0].tokens * (len(passes[-1]) + 1) > token_budget:
                passes.append([])
            passes[-1].append(self._bundle([index], 0))
        return passes

    def _split(self, bundle: Bundle, token_budget: int) -> list[Bundle]:
        if bundle.tokens <= token_budget or len(bundle.rows) == 1:
            return [bundle]
        parts: list[Bundle] = []
        current: list[int] = []
        tokens = bundle.prefix
        for index in bundle.rows:
            own = int(self.lengths[index]) - bundle.prefix
            if current and tokens + own > token_budget:
                parts.append(self._bundle(current, bundle.prefix))
                current, tokens = [], bundle.prefix
            current.append(index)
            tokens += own
        return [*parts, self._bundle(current, bundle.prefix)]
