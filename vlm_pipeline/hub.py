"""The one way onto the Hugging Face hub: data sets and adapters, privately, when HF_TOKEN and a repository are set."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from vlm_pipeline.markdown import escape, table
from vlm_pipeline.store import write_text

TOKEN_VARIABLE = "HF_TOKEN"


class HubError(RuntimeError):
    """Nothing was pushed; the message says why and what to do, and never holds the token."""


@dataclass(frozen=True)
class Pushed:
    """Where it went."""

    url: str
    commit: str
    private: bool


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

    The repository is made private when it does not exist. One that exists and is public is refused while `private`
    holds. Endpoint and token come from HF_ENDPOINT and HF_TOKEN. Raises HubError.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

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
            repo_id=repository, repo_type=kind, folder_path=folder, commit_message=message
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).replace(token, "[token]").strip().splitlines()
        raise HubError(
            f"{repository} was not pushed: {reason[0] if reason else type(error).__name__}"
        ) from None
    return Pushed(made.repo_url.url if made.repo_url else repository, made.oid, private)


def push_dataset(
    tables: Sequence[Path | str],
    repository: str,
    facts: Mapping[str, Any],
    *,
    private: bool = True,
    env: Mapping[str, str] | None = None,
) -> Pushed:
    """Push formatted tables as a data set: one Parquet file a split, each picture once, and a card. Raises HubError."""
    with TemporaryDirectory(prefix="vlm_pipeline-hub-") as folder:
        counts = write_dataset(tables, folder, facts)
        rows = sum(count for splits in counts.values() for count in splits.values())
        message = f"{facts.get('title') or facts.get('task') or 'data set'}: {rows} rows"
        return push_folder(folder, repository, "dataset", message, private=private, env=env)


def write_dataset(
    tables: Sequence[Path | str], folder: Path | str, facts: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    """A folder that `datasets.load_dataset` reads as a DatasetDict with features; returns rows by section and split.

    Pictures lie once under `images/`, named by their hash; no path of this machine leaves it. facts: see `card`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    folder = Path(folder)
    counts: dict[str, Counter[str]] = {}
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for table in tables:
            with pq.ParquetFile(table, pre_buffer=False) as source:
                for batch in source.iter_batches(batch_size=256):
                    rows = batch.to_pylist()
                    for row in rows:
                        row["images"] = _copy_images(row["images"], row["image_sha256"], folder)
                        counts.setdefault(row["section"], Counter())[row["split"]] += 1
                    schema = batch.schema.remove_metadata()
                    features = Features.from_arrow_schema(schema)
                    for split in sorted({row["split"] for row in rows}):
                        if split not in writers:
                            path = folder / "data" / f"{split}-00000.parquet"
                            path.parent.mkdir(parents=True, exist_ok=True)
                            described = schema.with_metadata(
                                {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
                            )
                            writers[split] = stack.enter_context(
                                pq.ParquetWriter(path, described, compression="zstd")
                            )
                        own = [row for row in rows if row["split"] == split]
                        writers[split].write_table(pa.Table.from_pylist(own, schema=writers[split].schema))
    found = {section: dict(sorted(splits.items())) for section, splits in sorted(counts.items())}
    write_text(folder / "README.md", card(found, facts))
    return found


def _copy_images(paths: Iterable[str], hashes: Iterable[str], folder: Path) -> list[str]:
    names = []
    for path, digest in zip(paths, hashes, strict=True):
        name = f"images/{digest[:32]}{Path(path).suffix.lower()}"
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(Path(path).resolve(), target)  # the same bytes, on the disk once
            except OSError:  # another disk
                shutil.copyfile(path, target)
        names.append(name)
    return names


def card(counts: Mapping[str, Mapping[str, int]], facts: Mapping[str, Any]) -> str:
    """Data set card. facts: title, task, description, base_model, template_hash, findings (list), quarantine (count by kind)."""
    import yaml

    splits = sorted({split for section in counts.values() for split in section})
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    header = {
        "pretty_name": facts.get("title") or facts.get("task") or "data set",
        "configs": [{"config_name": "default", "data_files": files}],
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {header['pretty_name']}", "", str(facts.get("description") or ""), ""]
    rows = [(name, *(section.get(split, 0) for split in splits)) for name, section in counts.items()]
    lines += ["## Rows", "", table(("section", *splits), rows)]
    lines += [
        "",
        "## How it was made",
        "",
        f"Rendered by the chat template of `{facts.get('base_model', 'unknown')}` (hash `{facts.get('template_hash', 'unknown')}`). "
        "`input_ids` are the tokens of the whole text, `labels` are -100 where nothing is supervised.",
        "",
        "## Checks",
        "",
    ]
    findings = list(facts.get("findings") or ())
    lines += [
        f"- failure {one['number']}, row {escape(one.get('row_id'))}: {escape(one['message'])}"
        for one in findings[:50]
    ] or ["All rows passed every check of the failure catalogue."]
    quarantine = dict(facts.get("quarantine") or {})
    lines += ["", "## Set aside", ""]
    lines += [f"- {kind}: {count}" for kind, count in sorted(quarantine.items())] or ["No row was set aside."]
    return "\n".join(lines) + "\n"
