"""The one way onto the Hugging Face hub: data sets and adapters, privately, when HF_TOKEN and a repository are set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TOKEN_VARIABLE = "HF_TOKEN"


class HubError(RuntimeError):
    """Nothing was pushed; the message says why and what to do, and never holds the token."""


@dataclass(frozen=True)
class Pushed:
    """Where it went."""

    url: str
    commit: str
    private: bool


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub refuses, answers badly or is not there: its own errors, those of httpx,
    and RuntimeError, which a second try after a failed connection ends with (huggingface_hub 1.x closes its client)."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError, ValueError, RuntimeError


def push_folder(
    folder: Path | str,
    repository: str,
    kind: Literal["dataset", "model"],
    message: str,
    *,
    private: bool = True,
    env: Mapping[str, str] | None = None,
) -> Pushed:
    """Upload a folder as one commit; files that the repository has already are not sent again.

    Rows that a data set has on the hub and no longer in the folder (of a section that is gone) are deleted there.

    The repository is made private when it does not exist. One that exists and is public is refused while `private`
    holds. Endpoint and token come from HF_ENDPOINT and HF_TOKEN. Raises HubError.
    """
    from huggingface_hub import HfApi

    env = os.environ if env is None else env
    token = env.get(TOKEN_VARIABLE)
    if not token:
        raise HubError(f"{TOKEN_VARIABLE} is not set; set it to a write token to push {repository}")
    api = HfApi(endpoint=env.get("HF_ENDPOINT") or None, token=token)
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        if private and not api.repo_info(repository, repo_type=kind).private:
            raise HubError(
                f"{repository} is public; make it private on the hub, or set private: false to publish it"
            )
        made = api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            delete_patterns=["data/*", "images/*"] if kind == "dataset" else None,
        )
    except HubError:
        raise
    except hub_errors() as error:
        reason = str(error).replace(token, "[token]").strip().splitlines()
        raise HubError(
            f"{repository} was not pushed: {reason[0] if reason else type(error).__name__}"
        ) from None
    return Pushed(made.repo_url.url if made.repo_url else repository, made.oid, private)
