"""OpenAI's batch API as a predictor: half the price, answers within a day. A killed run finds its batch again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.inference.budget import BudgetExhausted
from vlm_pipeline.inference.hosted import (
    Api,
    HostedPredictor,
    MalformedAnswer,
    OpenAIResponses,
    create_once,
    judge_error,
    patiently,
    redact,
)
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.store import content_hash, read_json, write_json

MAX_REQUESTS = 10_000  # the API allows 50,000 and 200 MB in a file; pictures make files large
MAX_BYTES = 150_000_000
_TAG = "vlm_pipeline_batch"
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class BatchPredictor(HostedPredictor):
    """Uploads the requests, creates one batch per file, waits, reads the answers.

    journal: JSON file {hash of a file's requests: batch id}, written before anything waits. A batch that is not in
    it (the process died in between) is found by its metadata on the server.
    """

    def __init__(
        self, name: str, api: Api, generation: GenerationSettings, *, journal: Path, wait_s: float,
        poll_s: float = 10.0, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(name, api, generation, **options)
        self._journal, self._wait_s, self._poll_s = journal, wait_s, poll_s
        self._client: Any = api.client  # type: ignore[attr-defined]
        self._tickets: dict[str, str] = {}
        self._url = "/v1/responses" if isinstance(api, OpenAIResponses) else "/v1/chat/completions"

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        parts, refused = self._parts(asks)
        if refused:
            yield refused
        batches = []
        for part in parts:
            try:
                batches.append((part, self._find_or_create(part)))
            except BudgetExhausted as error:
                yield [failed(ask, self.name, str(error)) for ask, _ in part.values()]
            except Exception as error:  # sorted by the same rules as single requests
                yield [failed(ask, self.name, judge_error(error).reason) for ask, _ in part.values()]
        for part, batch_id in batches:
            yield self._collect(part, batch_id)

    def _parts(self, asks: Sequence[Ask]) -> tuple[list[dict[str, tuple[Ask, str]]], list[Prediction]]:
        """Requests as {key: (ask, JSON line)}, cut into files; rows whose request cannot be built apart."""
        parts: list[dict[str, tuple[Ask, str]]] = []
        refused = []
        size = MAX_BYTES + 1
        for ask in asks:
            key = ask.key(self.fingerprint, self.generation)
            try:
                body = self.api.request(ask.body, self.generation)
            except (OSError, ValueError) as error:
                refused.append(failed(ask, self.name, redact(f"the request cannot be built: {error}")))
                continue
            line = json.dumps({"custom_id": key, "method": "POST", "url": self._url, "body": body})
            if size + len(line) > MAX_BYTES or len(parts[-1]) >= MAX_REQUESTS:
                parts.append({})
                size = 0
            parts[-1][key] = (ask, line)
            size += len(line)
        return parts, refused

    def _find_or_create(self, part: dict[str, tuple[Ask, str]]) -> str:
        tag = content_hash(sorted(part), length=32)
        known = read_json(self._journal, default={})
        if tag in known and self._usable(patiently(lambda: self._client.batches.retrieve(known[tag]))):
            return known[tag]
        upper = sum(self.upper_usd(ask.body) for ask, _ in part.values())
        ticket = self.budget.reserve(upper, f"a batch of {len(part)} rows")

        def find() -> Any | None:
            batches = self._client.batches.list(limit=100)
            return next(
                (one for one in batches if (one.metadata or {}).get(_TAG) == tag and self._usable(one)), None
            )

        def create() -> Any:
            data = "\n".join(line for _, line in part.values()).encode()
            file = self._client.files.create(file=(f"{tag}.jsonl", data), purpose="batch")
            return self._client.batches.create(
                input_file_id=file.id, endpoint=self._url, completion_window="24h", metadata={_TAG: tag}
            )

        batch = create_once(find, create)
        write_json(self._journal, {**known, tag: batch.id})
        self._tickets[batch.id] = ticket
        return batch.id

    @staticmethod
    def _usable(batch: Any) -> bool:
        return batch.status in _OPEN or batch.status == "completed"

    def upper_usd(self, talk: Any) -> float:
        return self.price.of(self.tokens_ahead(talk), self.generation.max_new_tokens, batch=True)

    def _collect(self, part: dict[str, tuple[Ask, str]], batch_id: str) -> list[Prediction]:
        """Wait for the batch and read its files; what neither file names is an error row."""
        started = time.perf_counter()
        batch = self._wait(batch_id)
        latency = time.perf_counter() - started
        if batch is None:
            waiting = f"pending: batch {batch_id} is not done after {self._wait_s:.0f} s; the next run asks for it again"
            return [failed(ask, self.name, waiting) for ask, _ in part.values()]
        rows: dict[str, Prediction] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if not file_id:
                continue
            for entry in patiently(lambda at=file_id: self._download(at)):
                ask = part.get(entry.get("custom_id"), (None,))[0]
                if ask is not None:
                    rows[entry["custom_id"]] = self._row(ask, entry, latency)
        if batch_id in self._tickets:
            self.budget.settle(self._tickets[batch_id], sum(row.cost_usd for row in rows.values()))
        reason = f"batch {batch_id} ended as {batch.status} without an answer to this row"
        return [rows.get(key) or failed(ask, self.name, reason) for key, (ask, _) in part.items()]

    def _download(self, file_id: str) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self._client.files.content(file_id).text.splitlines() if line.strip()
        ]

    def _row(self, ask: Ask, entry: dict[str, Any], latency: float) -> Prediction:
        from openai.types.chat import ChatCompletion
        from openai.types.responses import Response

        response = entry.get("response") or {}
        if entry.get("error") or response.get("status_code") != 200:
            reason = json.dumps(entry.get("error") or (response.get("body") or {}).get("error") or response)
            return failed(ask, self.name, redact(f"the batch could not answer this row: {reason}")[:500])
        kind = Response if isinstance(self.api, OpenAIResponses) else ChatCompletion
        try:
            reply = self.api.parse(kind.model_validate(response["body"]))
        except (MalformedAnswer, ValueError) as error:
            return failed(ask, self.name, f"the batch's answer is malformed: {error}"[:500])
        cost = self.price.of(reply.tokens_in, reply.tokens_out, batch=True)
        return answered(
            ask, self.name, text=reply.text, finish_reason=reply.finish_reason, tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out, latency_s=latency, cost_usd=cost,
        )  # fmt: skip

    def _wait(self, batch_id: str) -> Any | None:
        """The finished batch, or None when it is not done in time. Polls ever more slowly, up to 60 s."""
        deadline = time.monotonic() + self._wait_s
        pause = self._poll_s
        while True:
            batch = patiently(lambda: self._client.batches.retrieve(batch_id))
            if batch.status not in _OPEN:
                return batch
            if time.monotonic() + pause > deadline:
                return None
            time.sleep(pause)
            pause = min(60.0, pause * 1.5)
