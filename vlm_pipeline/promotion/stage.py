"""The promotion stage: collect the facts, go through the checklist, move the pointer when every check passed.

That an adapter is not promoted is a result like any other: it is recorded, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlm_pipeline.formatting.probes import SPLIT as PROBES
from vlm_pipeline.formatting.probes import probe_tables, probes_file
from vlm_pipeline.formatting.stage import (
    formatted_paths,
    processor_identity,
    splits_version,
    verification_findings,
    verification_report,
)
from vlm_pipeline.inference.predictors import adapter_predictor
from vlm_pipeline.inference.stage import EVALUATED, Payload, make_predictions
from vlm_pipeline.manifest import Artifact, data_version, make_once, read_manifest
from vlm_pipeline.promotion import checklist
from vlm_pipeline.promotion.checklist import Item
from vlm_pipeline.promotion.on_hub import follow_on_hub, keep_evidence
from vlm_pipeline.promotion.pointer import promote, read_pointer, rolled_back_from
from vlm_pipeline.promotion.sign_off import sign_off, signed_off
from vlm_pipeline.scoring.decision_stage import scored_rows, tuned_name
from vlm_pipeline.scoring.stage import READY, make_metrics, predictions_metadata, predictor_status
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.record import AdapterError, adapter_version, read_record
from vlm_pipeline.training.stage import ADAPTER_ASSETS, base_identity, current_adapter

Log = Callable[[str], None]


@dataclass(frozen=True)
class Promotion:
    """What became of it: the artifact for the asset, one item for each check."""

    artifact: Artifact
    items: list[Item]
    promoted: bool


def make_promotion(
    task: Task, store: TaskStore, run_payload: Payload, *, run_id: str, log: Log, signed_off_by: str = ""
) -> Promotion:
    """Go through the checklist for the task's candidate; promote it when all of it passes.

    `run_payload` answers rows (promoted adapter, final split); rows that were answered before cost nothing.
    `signed_off_by`: a person who signs the candidate off with this very run.
    """
    predictor, reason = candidate(task, store)
    if predictor is None:
        log(f"no promotion: {reason}")
        return _result(task, store, checklist.not_run(reason), None, log)
    facts = _Facts(task, store, predictor, run_payload, run_id, log)
    if facts.adapter_problem:
        broken = [Item(name, False, facts.adapter_problem) for name in checklist.CHECKS]
        return _result(task, store, broken, facts, log)
    if signed_off_by:
        sign_off(store, facts.adapter_id, signed_off_by)
    items = _check(facts)
    if not checklist.ready(items):
        log(f"not promoted: {'; '.join(f'{item.name}: {item.detail}' for item in checklist.failing(items))}")
        return _result(task, store, items, facts, log)
    shown = read_pointer(store)
    before = shown["sequence"]
    if (shown["adapter_id"], shown["version"]) != (facts.adapter_id, facts.version):
        keep_evidence(store, facts.version, items, facts.pair)
    evidence = {"comparison": data_version(store, "comparison"), "decision": facts.sentence}
    pointer = promote(store, facts.adapter_id, by=f"run {run_id}", evidence=evidence)
    log(f"{'promoted' if pointer['sequence'] > before else 'promoted already'}: {facts.adapter_id}")
    return _result(task, store, items, facts, log, promoted=pointer["sequence"] > before)


def candidate(task: Task, store: TaskStore) -> tuple[TransformersPredictor | None, str]:
    """The predictor that may be promoted, with the id of its adapter; or None and why there is none."""
    wanted = task.promotion.adapter
    if wanted in ADAPTER_ASSETS:
        name, adapter_id = tuned_name(task, wanted), current_adapter(store, wanted)
        if name is None:
            return None, f"no predictor of the task uses the {wanted} adapter (adapter: {wanted})"
        if adapter_id is None:
            return None, "no adapter has been trained yet"
        settings = next(one for one in task.predictors if one.name == name)
        predictor = settings.model_copy(update={"adapter": adapter_id})
    else:
        predictor = adapter_predictor(wanted)
    status = predictor_status(store, predictor.name)
    return (predictor, "") if status == READY else (None, f"{predictor.name} is {status}")


@dataclass
class _Facts:
    """Everything the checks ask about one candidate, looked up once."""

    task: Task
    store: TaskStore
    predictor: TransformersPredictor
    run_payload: Payload
    run_id: str
    log: Log
    adapter_problem: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.record = read_record(self.store.path("adapters", self.adapter_id))
        except AdapterError as error:
            self.adapter_problem = str(error)

    @property
    def name(self) -> str:
        return self.predictor.name

    @property
    def adapter_id(self) -> str:
        assert self.predictor.adapter is not None
        return self.predictor.adapter

    @property
    def version(self) -> str:
        return adapter_version(self.record)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.store.path("metrics", f"{self.name}.json"), default={})

    @cached_property
    def pair(self) -> dict[str, Any] | None:
        """The candidate against the base: the pair of the comparison, or compared now for another candidate."""
        return self._known_pair or compared(self.task, self.store, self.name, self.task.base.name)

    @cached_property
    def _known_pair(self) -> dict[str, Any] | None:
        known = read_json(self.store.path("comparison.json"), default={}).get("pairs", [])
        wanted = (self.name, self.task.base.name)
        return next((pair for pair in known if (pair["a"], pair["b"]) == wanted), None)

    @property
    def in_comparison(self) -> bool:
        return self._known_pair is not None

    @property
    def sentence(self) -> str:
        return self.pair["decision"]["sentence"] if self.pair else ""


def compared(
    task: Task, store: TaskStore, name: str, other: str, split: str = "test"
) -> dict[str, Any] | None:
    """One predictor against another on one split; None where one of them has no answers."""
    from vlm_pipeline.scoring.comparison import compare

    names = [task.base.name, *(one for one in dict.fromkeys([name, other]) if one != task.base.name)]
    if any(predictor_status(store, one) != READY for one in names):
        return None
    scores, answers = scored_rows(store, names, split)
    conditions = {one: predictions_metadata(store, one).get("conditions", {}) for one in names}
    result = compare(
        scores,
        answers,
        base=task.base.name,
        pairs=[(name, other)],
        conditions=conditions,
        confidence=1 - task.thresholds.alpha,
    )
    return result["pairs"][0] if result["pairs"] else None


def _check(facts: _Facts) -> list[Item]:
    task, store, alpha = facts.task, facts.store, facts.task.thresholds.alpha
    report = verification_report(task, store)
    findings = verification_findings(task, store)
    rows = report.metadata.get("rows", 0)

    def verified(name: str, numbers: tuple[int, ...]) -> Item:
        return checklist.rows_verified(name, numbers, findings, rows, report.passed)

    test = (facts.metrics.get("splits") or {}).get("test")
    signed = signed_off(store, facts.version)
    pointer = read_pointer(store)
    command = f"python -m vlm_pipeline sign-off {store.task_name} {facts.adapter_id} --by NAME"
    judging = (facts.metrics.get("external") or {}).get("judging")
    items = [
        Item("intact_adapter", True, f"{len(facts.record['files'])} files as recorded"),
        checklist.current_evidence(_stale(facts)),
        verified("real_tokens", checklist.TOKENS),
        verified("verified_labels", checklist.LABELS),
        checklist.equal_formats(facts.record, present_formats(task, store), verified("equal_formats", checklist.FORMATS)),
        checklist.parity(facts.pair, verified("parity", checklist.PROMPTS)),
        checklist.task_score(test),
        checklist.demonstrated_gain(facts.pair),
        checklist.no_section_worse(facts.pair, alpha),
        _against_promoted(facts, pointer, alpha),
        checklist.probes(facts.metrics.get("probes"), task.promotion.probes, probes_file(task) is not None),
        checklist.accounting(*_asked_and_answered(facts), test, task.thresholds.extraction),
        checklist.judge_calibration(bool(task.judging.judges), judging, task.promotion.judge_agreement),
        checklist.not_rolled_back(rolled_back_from(pointer, facts.version), signed),
        checklist.reward_watch(facts.record, signed),
        checklist.sign_off(task.promotion.sign_off, signed, command),
    ]  # fmt: skip
    return [*items, _final(facts, checklist.ready(items))]


def _stale(facts: _Facts) -> list[str]:
    """What was made from another adapter, other rows or other figures than those in the store."""
    task, store, base = facts.task, facts.store, facts.task.base.name
    found = []

    def looked(artifact: str, key: str, now: str | None) -> None:
        made_from = (read_manifest(store, artifact) or {"inputs": {}})["inputs"].get(key)
        if made_from is None or made_from != now:
            found.append(f"{artifact} was made from other {key.replace('/', ' of ')}")

    rows = splits_version(task, store, EVALUATED)
    for name in (base, facts.name):
        looked(f"predictions/{name}", "rows", rows)
        looked(f"metrics/{name}", f"predictions/{name}", data_version(store, f"predictions/{name}"))
        if facts.in_comparison:
            looked("comparison", f"metrics/{name}", data_version(store, f"metrics/{name}"))
    for kind, artifact in ADAPTER_ASSETS.items():
        if facts.name == tuned_name(task, kind):
            looked(f"predictions/{facts.name}", artifact, data_version(store, artifact))
    return found


def present_formats(task: Task, store: TaskStore) -> dict[str, Any]:
    """Base, template and image settings in force now; the processor is read once per state of its files."""

    def make() -> Artifact:
        from vlm_pipeline.formatting.template import image_settings, load_processor, template_hash

        processor = load_processor(task.base_model_path, task.revision, task.image)
        found = {"template_hash": template_hash(processor), "image_settings": image_settings(processor)}
        return Artifact(found["template_hash"], found)

    inputs = {"processor": processor_identity(task), "image": task.settings_hash("image")}
    base = base_identity(task, store)
    hosted = "@" in base  # a base on a hub is named, not hashed; the payload compares its weights
    return {**make_once(store, "checks/formats", inputs, make).metadata, "base": None if hosted else base}


def _asked_and_answered(facts: _Facts) -> tuple[list[str], list[str]]:
    """Ids of all val, test and probe rows, and ids of the candidate's prediction table (one per row and sample)."""
    import pyarrow.parquet as pq

    wanted: list[str] = []
    for path in [*formatted_paths(facts.task, facts.store), *probe_tables(facts.task, facts.store)]:
        table = pq.read_table(path, columns=["id"], filters=[("split", "in", [*EVALUATED, PROBES])])
        wanted += table.column("id").to_pylist()
    answers = pq.read_table(
        facts.store.path("predictions", f"{facts.name}.parquet"), columns=["id", "sample"], filters=[("sample", "==", 0)]
    )  # fmt: skip
    return wanted, answers.column("id").to_pylist()


def _against_promoted(facts: _Facts, pointer: Mapping[str, Any], alpha: float) -> Item:
    """The candidate against the adapter that is promoted now, on the same test rows, where that one can answer."""
    task, store, promoted = facts.task, facts.store, pointer["adapter_id"]
    if promoted is None:
        return checklist.not_worse_than_promoted(None, "nothing is promoted yet", alpha)
    if pointer["version"] == facts.version:
        return checklist.not_worse_than_promoted(None, "it is the promoted one", alpha)
    try:
        record = read_record(store.path("adapters", promoted))
    except AdapterError as error:
        return checklist.not_worse_than_promoted(None, f"the promoted adapter is lost: {error}", alpha)
    same = checklist.equal_formats(record, present_formats(task, store), Item("equal_formats", True, ""))
    if not same.passed:
        reason = f"the promoted adapter {promoted} does not fit any more: {same.detail}"
        return checklist.not_worse_than_promoted(None, reason, alpha)
    predictor = adapter_predictor(promoted)
    make_predictions(
        task, store, predictor, facts.run_payload, picked=True, run_id=facts.run_id, log=facts.log
    )
    make_metrics(task, store, predictor, facts.log, run_id=facts.run_id)
    pair = compared(task, store, facts.name, promoted)
    return checklist.not_worse_than_promoted(pair, f"{promoted} has no answers", alpha)


def _final(facts: _Facts, otherwise_ready: bool) -> Item:
    from vlm_pipeline.promotion.final import final_rows, look_at_final

    if not final_rows(facts.task, facts.store):
        return checklist.final_split(None, "the task has no final split (splits.final)")
    if not otherwise_ready:
        return checklist.final_split(None, "kept for an adapter that passes everything else", held_back=True)
    look = look_at_final(
        facts.task, facts.store, facts.predictor, facts.version, facts.run_payload, facts.run_id, facts.log
    )
    return checklist.final_split(look, "")


def _result(
    task: Task, store: TaskStore, items: list[Item], facts: _Facts | None, log: Log, *, promoted: bool = False
) -> Promotion:
    hub = follow_on_hub(task, store, log)
    pointer = read_pointer(store)
    marks = {True: "passed", False: "FAILED", None: "does not apply"}
    table = [{"check": one.name, "result": marks[one.passed], "detail": one.detail} for one in items]
    history = [
        {key: move.get(key) for key in ("sequence", "action", "adapter_id", "before", "by")}
        for move in pointer["history"][-20:]
    ]
    failed = checklist.failing(items)
    metadata = {
        "promoted": pointer["adapter_id"] or "none",
        "candidate": facts.adapter_id if facts else "none",
        "moved": promoted,
        "checks_failed": len(failed),
        "why_not": "; ".join(f"{one.name}: {one.detail}" for one in failed) or "nothing",
        "checklist": {"table": table},
        "history": {"table": history},
        "hub": hub,
    }
    artifact = Artifact(
        pointer["version"] or "none", metadata, reason="all checks passed" if not failed else "checks failed"
    )
    return Promotion(artifact, items, promoted)
