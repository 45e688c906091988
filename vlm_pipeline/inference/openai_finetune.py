"""OpenAI fine-tuning: one job per data and settings, whatever is killed or lost in between.

`submit` validates, prices, uploads, creates and returns; ids are in fine_tune_info.json before anything waits.
`refresh` looks once; `wait` looks until the job ends. The job carries a hash of files and settings in its metadata,
so that a run which lost the answer, or the process, finds the same job again and never starts a second.

Azure: the same calls through AzureOpenAI (`provider: azure_openai`); a finished Azure model must be deployed with
Azure's own tools, and its `deployment` named, before it can be asked. That variant was only run against the stand-in's
Azure paths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from vlm_pipeline.estimates import hosted_fine_tune
from vlm_pipeline.formatting.openai_validator import AZURE, OPENAI, Limits, validate_jsonl
from vlm_pipeline.inference.budget import Budget, BudgetExhausted
from vlm_pipeline.inference.openai_jobs import KEY_TAG, find_job, look
from vlm_pipeline.inference.patience import RequestFailed, create_once, patiently
from vlm_pipeline.inference.predictors import NOT_RUN, is_azure
from vlm_pipeline.inference.prices import Price, PriceError, price_of
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor
from vlm_pipeline.store import content_hash, file_hash, read_json, write_json

_ENDED = ("succeeded", "failed", "cancelled")
_PURPOSE = "fine-tune"


class FineTuneError(Exception):
    """The files, the price or the job: the message says what is wrong and what to do."""


@dataclass(frozen=True)
class TrainingFile:
    """What is known of a file before it is uploaded."""

    path: Path
    sha256: str
    rows: int
    tokens: int
    tokens_at_most: int

    @property
    def remote_name(self) -> str:
        return f"vlm-pipeline-{self.sha256[:24]}.jsonl"


def inspect_file(
    path: Path, model: str, *, validation: bool = False, limits: Limits = OPENAI
) -> TrainingFile:
    """Validate a chat-format JSONL file and count it. Raises FineTuneError with the first findings."""
    if not path.is_file():
        raise FineTuneError(f"{path} does not exist: materialize openai_jsonl first")
    report = validate_jsonl(path, model, limits, validation=validation)
    if report.blocking:
        shown = "; ".join(map(str, report.blocking[:3]))
        raise FineTuneError(f"{path} would be refused ({len(report.blocking)} findings): {shown}")
    return TrainingFile(
        path, file_hash(path, length=64), report.examples, report.tokens, report.tokens_at_most
    )


def estimate(train: TrainingFile, settings: OpenAIFineTunedPredictor, price: Price) -> dict[str, Any]:
    """What the job costs (`usd`), and what it may cost at most: the budget has to hold the second."""
    found, most = (
        hosted_fine_tune(train.rows, tokens, price.of_training(), settings.n_epochs)
        for tokens in (train.tokens, train.tokens_at_most)
    )
    return {
        "rows": train.rows,
        "tokens": train.tokens,
        "epochs": found.epochs,
        "usd": found.cost_usd,
        "usd_at_most": most.cost_usd,
        "prices_as_of": price.as_of,
    }


def submit(
    train: Path,
    val: Path | None,
    settings: OpenAIFineTunedPredictor,
    *,
    info_path: Path,
    budget: Budget,
    client: Any,
    say: Callable[[str], None] = lambda text: None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Submit the job of these files, or find it. Returns the contents of fine_tune_info.json; nothing is waited for.

    Unchanged files and settings never start a second job, unless the first failed or was cancelled. Raises
    FineTuneError where there is no job and none can be made: bad files, no price, a price beyond the budget, a
    server or key that refuses.
    """
    try:
        return _submit(train, val, settings, info_path, budget, client, say, env)
    except PriceError as error:
        raise FineTuneError(str(error)) from None
    except RequestFailed as error:
        raise FineTuneError(
            f"the fine-tuning service at {client.base_url.host} gave no job: {error}"
        ) from None


def _submit(
    train: Path,
    val: Path | None,
    settings: OpenAIFineTunedPredictor,
    info_path: Path,
    budget: Budget,
    client: Any,
    say: Callable[[str], None],
    env: Mapping[str, str] | None,
) -> dict[str, Any]:
    limits = AZURE if is_azure(settings) else OPENAI
    files = {"training": inspect_file(train, settings.model, limits=limits)}
    if val is not None and val.is_file() and val.stat().st_size:
        files["validation"] = inspect_file(val, settings.model, validation=True, limits=limits)
    chosen = settings.model_dump(include={"model", "n_epochs", "batch_size", "learning_rate_multiplier"})
    hashes = {name: file.sha256 for name, file in files.items()}
    key = content_hash({"files": hashes, "settings": chosen, "place": str(client.base_url)}, length=32)
    info_path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{info_path}.lock"):
        info = read_json(info_path, default={})
        if info.get("key") == key and info.get("job_id"):
            try:
                info = look(info, client)
            except RequestFailed as error:  # the job goes on without us
                say(f"the job {info['job_id']} could not be asked: {error}")
            write_json(info_path, info)
            if info["status"] not in ("failed", "cancelled"):
                say(f"the job {info['job_id']} of this data is {info['status']}: nothing is submitted")
                return info
        priced = estimate(files["training"], settings, price_of(settings.model, settings.price, env))
        info = {"key": key, "status": "uploading", "model": settings.model, "settings": chosen, "data": hashes,
                "estimate": priced, "history": _history(info)}  # fmt: skip
        job = patiently(lambda: find_job(client, key))
        if job is None:
            try:
                ticket = budget.reserve(
                    priced["usd_at_most"], f"fine-tuning {settings.model} on {priced['rows']} rows"
                )
            except BudgetExhausted as error:
                raise FineTuneError(f"{error}; raise budget.money_usd or train on less") from error
            write_json(info_path, info)
            try:
                for name, file in files.items():
                    info[f"{name}_file"] = _upload(client, file, say)
                    write_json(info_path, info)
                job = create_once(lambda: find_job(client, key), lambda: _create(client, settings, info, key))
            except RequestFailed as error:
                if not error.verdict.maybe_paid:
                    budget.settle(ticket, 0.0)
                raise
        info |= {
            "job_id": job.id,
            "submitted_at": job.created_at,
            "status": job.status,
            "training_file": job.training_file,
        }
        write_json(info_path, info)
        if job.status in _ENDED:  # found, not made: its model and figures are not known yet
            info = look(info, client)
            write_json(info_path, info)
    say(
        f"fine-tuning job {job.id}: {priced['rows']} rows, {priced['epochs']} epochs, about {priced['usd']:.2f} USD, at most {priced['usd_at_most']:.2f}"
    )
    return info


def note_refusal(info_path: Path, reason: str) -> dict[str, Any]:
    """Write down why the present rows have no job; an earlier job, which is of other rows, becomes history."""
    with FileLock(f"{info_path}.lock"):
        info = read_json(info_path, default={})
        info = {"status": NOT_RUN, "error": redact(reason), "history": _history(info)}
        write_json(info_path, info)
    return info


def refresh(info_path: Path, client: Any, *, attempts: int = 10) -> dict[str, Any]:
    """Look how the job is doing and write it down. {} when none was submitted.

    A caller that comes again by itself, as a sensor does, asks once: `attempts=1`.
    """
    with FileLock(f"{info_path}.lock"):
        info = read_json(info_path, default={})
        unknown = info.get("status") == "succeeded" and not info.get("fine_tuned_model")
        if info.get("job_id") and (info.get("status") not in _ENDED or unknown):
            info = look(info, client, attempts)
            write_json(info_path, info)
    return info


def wait(
    info_path: Path, client: Any, *, poll_s: float = 15.0, timeout_s: float = 24 * 3600, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:  # fmt: skip
    """Look until the job has ended or the time is over; ever more slowly, up to two minutes. A server that is away
    is waited for, too."""
    deadline = time.monotonic() + timeout_s
    shown = None
    while True:
        try:
            info = refresh(info_path, client)
        except RequestFailed as error:
            info = read_json(info_path)
            say(f"the job {info['job_id']} could not be asked: {error}")
            if error.verdict.kind == "all":
                return info
        if info.get("status") != shown:
            shown = info.get("status")
            say(f"fine-tuning job {info.get('job_id')}: {shown}")
        if not info.get("job_id") or shown in _ENDED or time.monotonic() + poll_s > deadline:
            return info
        time.sleep(poll_s)
        poll_s = min(120.0, poll_s * 1.3)


def cancel(info_path: Path, client: Any) -> dict[str, Any]:
    """Cancel the submitted job; what it has trained until then is still paid."""
    info = read_json(info_path, default={})
    if not info.get("job_id"):
        raise FineTuneError(f"{info_path} names no job to cancel")
    patiently(lambda: client.fine_tuning.jobs.cancel(info["job_id"]))
    return refresh(info_path, client)


def _history(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs before the next one, the present one included."""
    past = {name: info.get(name) for name in ("key", "job_id", "status", "fine_tuned_model", "error")}
    return [*info.get("history", []), *([past] if info.get("job_id") else [])]


def _upload(client: Any, file: TrainingFile, say: Callable[[str], None]) -> str:
    """Id of the uploaded file; the same bytes are uploaded once."""

    def find() -> Any | None:
        files = client.files.list(purpose=_PURPOSE)
        return next(
            (one for one in files if one.filename == file.remote_name and one.status != "error"), None
        )

    def create() -> Any:
        say(f"uploading {file.path.name}: {file.rows} rows, {file.path.stat().st_size:,} bytes")
        with file.path.open("rb") as handle:
            return client.files.create(file=(file.remote_name, handle), purpose=_PURPOSE)

    return create_once(find, create).id


def _create(client: Any, settings: OpenAIFineTunedPredictor, info: dict[str, Any], key: str) -> Any:
    chosen = {
        name: value
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
        if (value := getattr(settings, name)) is not None
    }
    optional = {"validation_file": info["validation_file"]} if info.get("validation_file") else {}
    return client.fine_tuning.jobs.create(
        model=settings.model,
        training_file=info["training_file"],
        method={"type": "supervised", "supervised": {"hyperparameters": chosen}},
        suffix=f"vlm-{key[:12]}",
        metadata={KEY_TAG: key},
        **optional,
    )
