"""Train == serve: is a server of the task's own weights asked what training asked, and does it answer as they do here?

What each comparison proves is said, and so is what it leaves open: a server that keeps picture placeholders to itself
has proven its template and not its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.parity_stage import ASKED
from vlm_pipeline.formatting.prepared import formatted_paths, task_processor
from vlm_pipeline.settings.predictors import OpenAICompatiblePredictor
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict

if TYPE_CHECKING:
    from vlm_pipeline.formatting.served import AskedRow

_SHOWN = 20
_TOKENIZED = 64  # asked rows whose tokens a server is asked for, drawn evenly


def servers(task: Task) -> list[OpenAICompatiblePredictor]:
    """Predictors that say whose weights they serve."""
    return [
        predictor
        for predictor in task.predictors
        if isinstance(predictor, OpenAICompatiblePredictor) and predictor.serves
    ]


@dataclass
class _Proof:
    """What is known of one server: differences, what is proven, what stays open, and what was not needed."""

    findings: list[Finding] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [f"proven: {', '.join(self.proven) or 'nothing'}"]
        said += [f"not proven: {', '.join(self.open)}"] if self.open else []
        return "; ".join([*said, *self.notes])


@dataclass(frozen=True)
class _Asked:
    """What is compared: some asked rows with their tokens; the number of all, and the ids of those with pictures."""

    rows: tuple[AskedRow, ...]
    total: int
    pictured: frozenset[str]


def served_report(task: Task, store: TaskStore) -> Verdict:
    """One verdict on all servers; fails on a difference, and where template or pixels of one stay unproven.

    Asked anew every time: a server can be started with other files at any time.
    """
    names = {predictor.name for predictor in task.predictors}
    asked = _asked(task, store)
    proofs: dict[str, _Proof] = {}
    for server in servers(task):
        if server.serves in names:
            proofs[server.name] = _prove(task, store, server, asked)
        else:
            proofs[server.name] = _Proof(
                open=[f"it serves {server.serves!r}, which is no predictor of this task"]
            )
    findings = [finding for proof in proofs.values() for finding in proof.findings]
    said = "; ".join(f"{name}: {proof}" for name, proof in proofs.items()) or "no server is named"
    metadata = {
        "compared": {name: str(proof) for name, proof in proofs.items()},
        "differences": len(findings),
        "first_findings": {"table": [finding.as_dict() for finding in findings[:_SHOWN]]},
    }
    if findings:
        return Verdict(False, f"{len(findings)} differences. First: {findings[0]}", metadata)
    return Verdict(not any(proof.open for proof in proofs.values()), said, metadata)


def _prove(task: Task, store: TaskStore, server: OpenAICompatiblePredictor, asked: _Asked) -> _Proof:
    proof = _Proof()
    told, seen = _prove_tokens(task, server, asked, proof)
    answered, counted = _prove_answers(task, store, server, asked, proof)
    if not told and not answered:
        proof.open.append(
            f"the template (it tells no tokens, and has answered no row that {server.serves} answered)"
        )
    if asked.pictured and not (seen or counted):
        proof.open.append(
            "the picture settings (it tells no picture tokens, and no prompt-token count of a row with a picture that "
            f"{server.serves} answered as well); predict with both"
        )
    return proof


def _prove_tokens(
    task: Task, server: OpenAICompatiblePredictor, asked: _Asked, proof: _Proof
) -> tuple[bool, bool]:
    """By the tokens that the server tells. Returns whether it told any, and picture tokens among them."""
    from vlm_pipeline.formatting.served import NotTold, compare_tokens, served_tokens
    from vlm_pipeline.formatting.template import tokenizer_of

    tokenizer, seen = tokenizer_of(task_processor(task)), 0
    try:
        for row in asked.rows:
            served = served_tokens(server, row.talk)
            finding = compare_tokens(row, served, tokenizer, server.name)
            proof.findings += [finding] if finding else []
            seen += row.id in asked.pictured and len(served) == len(row.prompt_ids)
    except NotTold as reason:
        proof.notes.append(f"no prompt tokens are told ({reason})")
        return False, False
    proof.proven.append(f"prompt tokens of {len(asked.rows)} of {asked.total} rows")
    if seen:
        proof.proven.append(f"picture tokens of {seen} of them")
    return bool(asked.rows), bool(seen)


def _prove_answers(
    task: Task, store: TaskStore, server: OpenAICompatiblePredictor, asked: _Asked, proof: _Proof
) -> tuple[bool, bool]:
    """By the prediction tables. Returns whether answers were compared, and prompt-token counts of rows with pictures."""
    from vlm_pipeline.formatting.served import compare_answers, same_counts

    local = next(predictor for predictor in task.predictors if predictor.name == server.serves)
    sampled = [one.name for one in (local, server) if not task.generation_of(one).deterministic]
    if sampled:
        proof.notes.append(f"answers are not compared: {' and '.join(sampled)} do not answer greedily")
        return False, False
    theirs, ours = (_predictions(store, name) for name in (server.name, local.name))
    shared = [row for row in theirs.values() if _good(row) and _good(ours.get(row["id"]))]
    if not shared:
        return False, False
    proof.findings += compare_answers(ours, shared, server.name)
    proof.proven.append(f"greedy answers of {len(shared)} rows")
    counted = [row for row in shared if same_counts(row, ours[row["id"]])]
    if counted:
        proof.proven.append(f"prompt-token counts of {len(counted)} of them")
    return True, any(row["id"] in asked.pictured for row in counted)


def _good(row: dict[str, Any] | None) -> bool:
    return row is not None and not row["error"]


def _asked(task: Task, store: TaskStore) -> _Asked:
    from vlm_pipeline.formatting.row_view import find_rows
    from vlm_pipeline.formatting.served import AskedRow
    from vlm_pipeline.inference.hosted_run import conversation_asks

    image_token = getattr(task_processor(task), "image_token_id", None)
    asks = conversation_asks(formatted_paths(task, store), ASKED)
    step = max(1.0, len(asks) / _TOKENIZED)
    picked = [asks[int(place * step)] for place in range(min(_TOKENIZED, len(asks)))]
    found = find_rows(formatted_paths(task, store), [ask.id for ask in picked])
    rows = tuple(
        AskedRow(ask.id, ask.section, ask.body, row["input_ids"][: row["n_prompt"]], image_token)
        for ask, row in zip(picked, found, strict=True)
    )
    return _Asked(rows, len(asks), frozenset(ask.id for ask in asks if ask.body.images))


def _predictions(store: TaskStore, name: str) -> dict[str, dict[str, Any]]:
    """Asked rows of a prediction table by id; nothing where there is no table yet."""
    from vlm_pipeline.inference.prediction import read_predictions

    path = store.path("predictions", f"{name}.parquet")
    if not path.is_file():
        return {}
    return {
        row.id: {key: getattr(row, key) for key in ("id", "section", "text", "tokens_in", "error")}
        for row in read_predictions(path)
        if row.sample == 0 and row.split in ASKED
    }
