"""Which prompts are generated together: groups that share a prefix, batches that fit into memory. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LONG_SUFFIX = 256  # tokens


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture of a prompt: file, hash of its bytes, and its patch grid (t, h, w) before merging."""

    sha256: str
    grid: tuple[int, int, int]
    path: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a generation prompt, image placeholders included, and the pictures they stand for, in order."""

    ids: tuple[int, ...]
    images: tuple[ImageInput, ...] = ()

    @property
    def image_key(self) -> tuple[str, ...]:
        return tuple(image.sha256 for image in self.images)


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts (`members`, indices) whose first `prefix` tokens and whose pictures are the same."""

    prefix: int
    members: tuple[int, ...]


def group_prompts(
    prompts: Sequence[Prompt], *, image_token: int | None, max_members: int, min_shared: int = 16
) -> list[Group]:
    """Cut prompts into groups with a common prefix.

    Sorted by pictures and ids, neighbours share the longest prefixes. A prompt joins the group before it when all
    pictures stay in the prefix, the prefix keeps at least `min_shared` tokens and half of its length, and what is
    left of the prompt is not the larger part (a long rest is cheaper as a prefix of its own). At least one token is
    left outside the prefix: its logits give the first new token.
    """
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].image_key, prompts[index].ids))
    groups: list[Group] = []
    members: list[int] = []
    prefix = 0
    for index in order:
        prompt = prompts[index]
        alone = len(prompt.ids) - 1
        if members and len(members) < max_members:
            first = prompts[members[0]]
            shared = min(prefix, alone, _common(first.ids, prompt.ids, prefix))
            enough = shared >= max(min_shared, prefix // 2, _images_end(prompt.ids, image_token))
            short = len(prompt.ids) - shared <= max(_LONG_SUFFIX, shared)
            if enough and short and first.image_key == prompt.image_key:
                members.append(index)
                prefix = shared
                continue
        if members:
            groups.append(Group(prefix, tuple(members)))
        members, prefix = [index], alone
    if members:
        groups.append(Group(prefix, tuple(members)))
    return groups


def suffix_length(prompts: Sequence[Prompt], group: Group) -> int:
    """Tokens of the longest member that lie outside the prefix."""
    return max(len(prompts[member].ids) for member in group.members) - group.prefix


def batch_groups(
    prompts: Sequence[Prompt], groups: Sequence[Group], *, max_rows: int, max_prefix_tokens: int
) -> list[list[Group]]:
    """Batches of groups of like length: at most `max_rows` prompts, and prefixes (padded) of `max_prefix_tokens`."""

    def size(group: Group) -> tuple[int, int, int]:
        return group.prefix, suffix_length(prompts, group), len(group.members)

    batches: list[list[Group]] = []
    rows = longest = 0
    for group in sorted(groups, key=size, reverse=True):
        fits = batches and rows + len(group.members) <= max_rows
        if fits and (len(batches[-1]) + 1) * longest <= max_prefix_tokens:
            batches[-1].append(group)
            rows += len(group.members)
        else:
            batches.append([group])
            rows, longest = len(group.members), group.prefix
    return batches


def _common(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    limit = min(limit, len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if first[:middle] == second[:middle] else (low, middle)
    return low


def _images_end(ids: Sequence[int], image_token: int | None) -> int:
    """Number of tokens up to and including the last image placeholder."""
    if image_token is None or image_token not in ids:
        return 0
    return len(ids) - 1 - ids[::-1].index(image_token) + 1
