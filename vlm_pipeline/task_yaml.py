"""YAML with line numbers, so that a wrong setting is reported where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class TaskFileError(ValueError):
    """A task file that cannot be used; the message names file, line, field and remedy."""


_MOST_SETTINGS = 20_000  # an alias can repeat a part, and the repetition be repeated, until memory is full


def load_with_lines(path: Path) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """Return (data, lines): plain Python data, and the 1-based line of every key and item by its path.

    Raises TaskFileError for unreadable YAML, a repeated key, or a file whose top level is not a mapping.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[tuple[str | int, ...], int] = {(): 1}
        if node is not None:
            _collect(node, (), lines, path, ())
        data = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "unknown line"
        raise TaskFileError(f"{path}, {where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except TaskFileError:
        raise
    except RecursionError:
        raise TaskFileError(f"{path}: settings are nested too deeply") from None
    except (ValueError, TypeError) as error:  # PyYAML's own constructors, for instance of the date 2024-13-01
        raise TaskFileError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise TaskFileError(
            f"{path}, line 1: a task is a mapping of settings, this is a {type(data).__name__}"
        )
    return data, lines


def _collect(
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    file: Path,
    above: tuple[yaml.Node, ...],
) -> None:
    """Fill `lines`; `above` are the nodes that this one lies in, since an alias may lead back to one of them."""
    line = node.start_mark.line + 1
    if any(node is one for one in above):
        raise TaskFileError(f"{file}, line {line}: this part refers to itself by an alias; write it out")
    if len(lines) > _MOST_SETTINGS:
        raise TaskFileError(
            f"{file}, line {line}: more than {_MOST_SETTINGS:,} settings; are aliases repeated?"
        )
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            here = (*path, str(key_node.value))
            line = key_node.start_mark.line + 1
            if here in lines:
                raise TaskFileError(
                    f"{file}, line {line}: {'.'.join(map(str, here))} is set twice (first in line {lines[here]})"
                )
            lines[here] = line
            _collect(value_node, here, lines, file, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            here = (*path, index)
            lines[here] = item.start_mark.line + 1
            _collect(item, here, lines, file, (*above, node))
