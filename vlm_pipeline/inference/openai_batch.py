"""OpenAI's batch API as a predictor: half the price, answers within a day. A killed run finds its batch again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.inference.apis import SAMPLING, Api, OpenAIResponses
from vlm_pipeline.inference.budget import BudgetExhausted
from vlm_pipeline.inference.hosted import HostedPredictor
from vlm_pipeline.inference.patience import (
    MalformedAnswer,
    RequestFailed,
    create_once,
    identified,
    patiently,
)
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.store import content_hash, read_json, write_json

MAX_REQUESTS = 10_000  # the API allows 50,000 and 200 MB in a file; pictures make files large
MAX_BYTES = 150_000_000
_TAG = "vlm_pipeline_batch"
_REMEMBERED = 100  # collected batches
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class BatchPredictor(HostedPredictor):
    """Uploads the requests, creates one batch per file, waits, reads the answers.

    journal: JSON file `{"batches": [{"tag", "batch", "rows"}], "collected": [batch ids]}`. A batch is in it, with the
    keys of its rows, before it is made: a later run asks only for rows that no batch holds, whatever else has changed.
    One whose id is missing (the process died in between) is found by its tag on the server. A batch leaves the
    journal when its answers are stored.
    """

    rows_at_once = None  # one batch after the other would be a day after the other

    def __init__(
        self, name: str, api: Api, generation: GenerationSettings, *, journal: Path, wait_s: float,
        poll_s: float = 10.0, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(name, api, generation, **options)
        self._journal, self._wait_s, self._poll_s = journal, wait_s, poll_s
        self._client: Any = api.client
        self._tickets: dict[str, str] = {}
        self._sent: set[str] = set()  # settings that a row may be refused for
        self._refused: list[Ask] = []  # rows that were
        self._url = "/v1/responses" if isinstance(api, OpenAIResponses) else "/v1/chat/completions"

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        self._sent = {*SAMPLING, "stop"} - self.dropped
        wanted = {ask.key(self.fingerprint, self.generation): ask for ask in asks}
        known, away = self._known(wanted)
        batches = [
            (batch_id, {key: wanted.pop(key) for key in keys if key in wanted}) for batch_id, keys in known
        ]
        parts, refused = self._parts({key: ask for key, ask in wanted.items() if key not in away})
        refused += [failed(wanted[key], self.name, reason) for key, reason in away.items()]
        if refused:
            yield refused
        for part in parts:
            rows = {key: ask for key, (ask, _) in part.items()}
            try:
                batches.append((self._create(part), rows))
            except (BudgetExhausted, RequestFailed) as error:
                yield [failed(ask, self.name, str(error)) for ask in rows.values()]
        for batch_id, rows in batches:
            try:
                answers = self._collect(batch_id, rows)
            except RequestFailed as error:
                yield [failed(ask, self.name, _away(batch_id, error)) for ask in rows.values()]
                continue
            if answers is None:
                reason = f"pending: batch {batch_id} is not done after {self._wait_s:.0f} s; the next run asks for it again"
                yield [failed(ask, self.name, reason) for ask in rows.values()]
                continue
            yield answers
            self._forget(batch_id)  # only now are the answers on disk
        if self._refused:
            again, self._refused = self._refused, []
            yield from self.predict(again)

    def _known(self, wanted: Mapping[str, Ask]) -> tuple[list[tuple[str, list[str]]], dict[str, str]]:
        """Batches of earlier runs that hold wanted rows, with these rows' keys; and, by key, why a batch cannot be
        asked now. Batches that came to nothing leave the journal, their rows are asked anew."""
        journal = self._read()
        found, away, kept = [], {}, []
        for entry in journal["batches"]:
            keys = [key for key in entry["rows"] if key in wanted]
            usable = True
            try:
                if keys and entry["batch"] is None:
                    entry["batch"] = patiently(lambda of=entry: self._find(of["tag"], journal["collected"]))
                if keys:
                    usable = entry["batch"] is not None and self._usable(self._retrieve(entry["batch"]))
            except RequestFailed as error:
                usable = error.verdict.status != 404
                away |= dict.fromkeys(keys, _away(entry["batch"], error)) if usable else {}
            if usable:
                kept.append(entry)
            if usable and keys and keys[0] not in away:
                found.append((entry["batch"], keys))
        if journal["batches"]:
            write_json(self._journal, {**journal, "batches": kept})
        return found, away

    def _parts(self, wanted: Mapping[str, Ask]) -> tuple[list[dict[str, tuple[Ask, str]]], list[Prediction]]:
        """Requests as {key: (ask, JSON line)}, cut into files; rows whose request cannot be built apart."""
        parts: list[dict[str, tuple[Ask, str]]] = []
        refused = []
        size = MAX_BYTES + 1
        for key, ask in wanted.items():
            try:
                body = self.accepted(self.api.request(ask.body, self.generation))
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

    def _create(self, part: Mapping[str, tuple[Ask, str]]) -> str:
        """Id of the batch of these rows. Raises BudgetExhausted before anything is sent, RequestFailed after."""
        tag = content_hash(sorted(part), length=32)
        journal = self._read()

        def find() -> Any | None:
            return self._find(tag, journal["collected"])

        def create() -> str:
            data = "\n".join(line for _, line in part.values()).encode()
            file = self._client.files.create(file=(f"{tag}.jsonl", data), purpose="batch")
            batch = self._client.batches.create(
                input_file_id=file.id, endpoint=self._url, completion_window="24h", metadata={_TAG: tag}
            )
            return identified(batch).id

        entry: dict[str, Any] = {"tag": tag, "batch": patiently(find), "rows": sorted(part)}

        def note() -> None:
            write_json(self._journal, {**journal, "batches": [*journal["batches"], entry]})

        if entry["batch"] is None:
            upper = sum(self.upper_usd(ask.body) for ask, _ in part.values())
            ticket = self.budget.reserve(upper, f"a batch of {len(part)} rows")
            note()
            try:
                entry["batch"] = create_once(find, create)
            except RequestFailed as error:
                if not error.verdict.maybe_paid:
                    self.budget.settle(ticket, 0.0)
                raise
            self._tickets[entry["batch"]] = ticket
        note()
        return entry["batch"]

    def _find(self, tag: str, collected: Sequence[str]) -> str | None:
        """The batch of this tag on the server whose answers nobody has yet."""
        for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get(_TAG) == tag and self._usable(batch) and batch.id not in collected:
                return batch.id
        return None

    def _retrieve(self, batch_id: str) -> Any:
        return patiently(lambda: self._client.batches.retrieve(batch_id))

    @staticmethod
    def _usable(batch: Any) -> bool:
        """It will have answers, or has some: also of one that expired or was cancelled the finished rows are paid."""
        return batch.status in _OPEN or batch.status == "completed" or bool(batch.output_file_id)

    def _read(self) -> dict[str, Any]:
        found = read_json(self._journal, default={})
        return {name: found.get(name, []) for name in ("batches", "collected")}

    def _forget(self, batch_id: str) -> None:
        journal = self._read()
        left = [entry for entry in journal["batches"] if entry["batch"] != batch_id]
        write_json(
            self._journal,
            {"batches": left, "collected": [*journal["collected"], batch_id][-_REMEMBERED:]},
        )

    def upper_usd(self, talk: Any) -> float:
        return self.price.of(self.tokens_ahead(talk), self.api.most_out(self.generation), batch=True)

    def _collect(self, batch_id: str, asked: Mapping[str, Ask]) -> list[Prediction] | None:
        """Wait for the batch and read its files; what neither file names is an error row. None: it is not done yet."""
        started = time.perf_counter()
        batch = self._wait(batch_id)
        latency = time.perf_counter() - started
        if batch is None:
            return None
        rows: dict[str, Prediction] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if not file_id:
                continue
            for entry in patiently(lambda at=file_id: self._download(at)):
                ask = asked.get(entry.get("custom_id"))
                if ask is not None and self._refuses_a_setting(entry):
                    self._refused.append(ask)
                elif ask is not None:
                    rows[entry["custom_id"]] = self._row(ask, entry, latency)
        if batch_id in self._tickets:
            self.budget.settle(self._tickets[batch_id], sum(row.cost_usd for row in rows.values()))
        reason = f"batch {batch_id} ended as {batch.status} without an answer to this row"
        left = {key: ask for key, ask in asked.items() if ask not in self._refused}
        return [rows.get(key) or failed(ask, self.name, reason) for key, ask in left.items()]

    def _download(self, file_id: str) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self._client.files.content(file_id).text.splitlines() if line.strip()
        ]

    def _refuses_a_setting(self, entry: dict[str, Any]) -> bool:
        response = entry.get("response") or {}
        return response.get("status_code") == 400 and self.drop_refused(json.dumps(response), self._sent)

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
            batch = self._retrieve(batch_id)
            if batch.status not in _OPEN:
                return batch
            if time.monotonic() + pause > deadline:
                return None
            time.sleep(pause)
            pause = min(60.0, pause * 1.5)


def _away(batch_id: str | None, error: RequestFailed) -> str:
    return f"pending: batch {batch_id or ''} could not be asked, the next run asks again: {error}"
