"""A data set of the hub as the source of a task: read at one commit, so that new rows are noticed and a read sees one state."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vlm_pipeline.store import read_json, write_json

HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?P<config>:[\w.-]+)?(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(hub: str, known: Path) -> str:
    """The id (`owner/name`, with `:config` and `@revision` where given) at its present commit.

    known: file that remembers the answer, for times when the hub cannot be asked: unchanged rows need no network.
    Raises FileNotFoundError where the hub has no such data set, or cannot be asked and never was.
    """
    match = HUB_ID.fullmatch(hub)
    if match is None:
        raise FileNotFoundError(
            f"{hub!r} is no data set of the hub: owner/name, owner/name:config, owner/name@revision"
        )
    if _COMMIT.fullmatch(match["revision"] or ""):
        return hub
    before = read_json(known, default={})
    try:
        commit = _commit(match["name"], match["revision"])
    except ConnectionError as error:
        if before.get("asked") == hub:
            return str(before["read"])
        raise FileNotFoundError(f"the hub cannot be asked for {hub}: {error}") from None
    found = f"{match['name']}{match['config'] or ''}@{commit}"
    if before != {"asked": hub, "read": found}:
        write_json(known, {"asked": hub, "read": found})
    return found


def _commit(name: str, revision: str | None) -> str:
    """Raises ConnectionError where the hub gives no answer, FileNotFoundError where it says that there is nothing."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    from vlm_pipeline.hub import hub_errors

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=os.environ.get("HF_TOKEN") or None)
    try:
        return str(api.dataset_info(name, revision=revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"the hub has no data set {name}{'@' + revision if revision else ''} for this token ({reason}); check "
            "source.hub in task.yaml and HF_TOKEN"
        ) from None
    except hub_errors() as error:
        raise ConnectionError(str(error).strip().splitlines()[0]) from None
