"""The OpenAI stage: four JSONL files and their offline validation; unchanged sections are neither written nor checked."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vlm_pipeline.formatting.prepared import TRAINED, splits_version
from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest
from vlm_pipeline.store import (
    TaskStore,
    content_hash,
    file_hash,
    read_json,
    safe_name,
    write_bytes,
    write_json,
)
from vlm_pipeline.task import Task

if TYPE_CHECKING:
    from vlm_pipeline.formatting.openai_jsonl import JsonlFile, Part
    from vlm_pipeline.formatting.openai_report import JsonlFinding, JsonlReport

_SHOWN = 20
_KEPT_FINDINGS = 1_000


def make_openai_jsonl(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`openai/{train,val}_{with_images,text_only}.jsonl`, checked offline; what the API would refuse is in the findings.

    Nothing is refused here: the files are there to look at. Submitting them is refused while a finding blocks.
    """
    inputs = {
        "rows": splits_version(task, store, TRAINED),
        "settings": task.settings_hash("prompt", "image"),
        "model": hosted_model(task),
        "images_url": task.source.images_url or "",
        "code": code_version("formatting"),
    }

    def make() -> Artifact:
        made = _Files(task, store, content_hash(inputs | {"rows": ""}))
        reports = made.make()
        for name, report in reports.items():
            log(
                f"{name}: {report['examples']} examples, about {report['tokens']:,} tokens, {report['problems']} problems"
            )
        path = store.path("openai", "validation.json")
        write_json(path, reports)
        table = [
            {"file": name, **{k: v for k, v in report.items() if k != "findings"}}
            for name, report in reports.items()
        ]
        metadata = {
            "problems": sum(report["problems"] for report in reports.values()),
            "files": {"table": table},
            "first_findings": {
                "table": [f for report in reports.values() for f in report["findings"]][:_SHOWN]
            },
        }
        files = [store.path("openai", f"{name}.jsonl") for name in reports]
        return Artifact(made.version(), metadata, (*files, path))

    return make_once(store, "openai_jsonl", inputs, make, log)


class _Files:
    """The four files, and `openai/parts.json`: what each section has in them and what is wrong with it."""

    def __init__(self, task: Task, store: TaskStore, shared: str) -> None:
        self._task, self._store = task, store
        self._folder = store.path("openai")
        self._sections = {str(store.section("formatted", name)): name for name in task.sections.names}
        self._versions = {
            table: content_hash([shared, _train_versions(store, section)])
            for table, section in self._sections.items()
        }
        self._model = hosted_model(task)

    def make(self) -> dict[str, dict[str, Any]]:
        """A report for each file, in file order, JSON-ready."""
        from vlm_pipeline.formatting.openai_jsonl import write_openai_jsonl

        known = self._known()
        kept = {table: {name: part for name, (part, _) in found.items()} for table, found in known.items()}
        written = write_openai_jsonl(
            self._sections, self._folder, self._task.prompt, self._url, kept=kept, content=self._write_keys
        )
        checked = {
            name: {
                table: known[table][name][1] if table in known else self._check(file.path, part)
                for table, part in file.parts.items()
            }
            for name, file in written.items()
        }
        self._remember(written, checked)
        return {name: self._report(name, file, checked[name]) for name, file in written.items()}

    def _url(self, path: str) -> str | None:
        """Where a picture is published; None for one outside the picture folder, or where nothing is published."""
        base, folder = self._task.source.images_url, self._task.images_path.resolve()
        if base is None or not Path(path).is_relative_to(folder):
            return None
        return f"{base.rstrip('/')}/{quote(Path(path).relative_to(folder).as_posix())}"

    def version(self) -> str:
        """Hash of what the lines say and in which order; the files themselves may be hundreds of megabytes."""
        settings = self._task.settings_hash("prompt")
        keys = {file.name: file_hash(file) for file in sorted((self._folder / "keys").glob("*.bin"))}
        address = self._task.source.images_url or ""
        return content_hash([settings, list(self._sections.values()), keys, *([address] if address else [])])

    def _known(self) -> dict[str, dict[str, tuple[Part, JsonlReport]]]:
        """Parts of the files as they lie there, of the sections that did not change since."""
        from vlm_pipeline.formatting.openai_jsonl import Part
        from vlm_pipeline.formatting.openai_report import OPENAI, JsonlFinding, JsonlReport

        before = read_json(self._folder / "parts.json", default={})
        for name, size in before.get("sizes", {}).items():
            path = self._folder / f"{name}.jsonl"
            if not path.is_file() or path.stat().st_size != size:
                return {}
        known: dict[str, dict[str, tuple[Part, JsonlReport]]] = {}
        for table, section in self._sections.items():
            found = before.get("sections", {}).get(section)
            if found and found["version"] == self._versions[table]:
                known[table] = {
                    name: (
                        Part(**one["part"]),
                        JsonlReport(
                            self._folder / f"{name}.jsonl",
                            OPENAI,
                            **one["counts"],
                            findings=[JsonlFinding(**finding) for finding in one["findings"]],
                        ),
                    )
                    for name, one in found["files"].items()
                }
        return known

    def _check(self, path: Path, part: Part) -> JsonlReport:
        from vlm_pipeline.formatting.openai_report import OPENAI, JsonlReport
        from vlm_pipeline.formatting.openai_validator import check_lines

        if not part.rows:
            return JsonlReport(path, OPENAI)
        return check_lines(
            path, self._model, start=part.start, length=part.bytes, max_findings=_KEPT_FINDINGS
        )

    def _remember(self, written: dict[str, JsonlFile], checked: dict[str, dict[str, JsonlReport]]) -> None:
        sections = {
            section: {
                "version": self._versions[table],
                "files": {
                    name: {
                        "part": asdict(file.parts[table]),
                        "counts": _counts(checked[name][table]),
                        "findings": [asdict(finding) for finding in checked[name][table].findings],
                    }
                    for name, file in written.items()
                },
            }
            for table, section in self._sections.items()
        }
        sizes = {name: file.bytes for name, file in written.items()}
        write_json(self._folder / "parts.json", {"sizes": sizes, "sections": sections})

    def _report(self, name: str, file: JsonlFile, checked: dict[str, JsonlReport]) -> dict[str, Any]:
        from vlm_pipeline.estimates import hosted_fine_tune
        from vlm_pipeline.formatting.openai_report import OPENAI, check_whole, join_reports
        from vlm_pipeline.inference.prices import PriceError, price_of

        split = name.split("_", 1)[0]
        parts = [(checked[table], part.rows) for table, part in file.parts.items()]
        report = check_whole(join_reports(file.path, OPENAI, parts), validation=split == "val")
        report.findings += self._duplicates(name, file)
        try:
            price = price_of(self._model)
        except PriceError:
            price = None
        paid = price.training if price and split == "train" else None
        job = hosted_fine_tune(report.examples, report.tokens, paid)
        return {
            "examples": report.examples,
            "images": report.images,
            "bytes": report.bytes,
            "tokens": report.tokens,
            "longest": report.longest,
            "epochs": job.epochs,
            "cost_usd": None if job.cost_usd is None else round(job.cost_usd, 4),
            "price_as_of": price.as_of if price else None,
            "problems": len(report.blocking),
            "findings": [self._shown(name, file, finding) for finding in report.findings[:_SHOWN]],
        }

    def _shown(self, name: str, file: JsonlFile, finding: JsonlFinding) -> dict[str, Any]:
        """A finding with the row that its line was made from."""
        return {"file": name, **asdict(finding), "row_id": self._row_of(file, name, finding.line)}

    def _row_of(self, file: JsonlFile, name: str, line: int | None) -> str | None:
        from vlm_pipeline.formatting.table import read_formatted_rows

        before = 0
        for table, part in file.parts.items():
            if line is None or line > before + part.rows:
                before += part.rows
                continue
            split = name.split("_", 1)[0]
            rows = (row["id"] for row in read_formatted_rows(table, ["id", "split"]) if row["split"] == split)
            return next((row for number, row in enumerate(rows, before + 1) if number == line), None)
        return None

    def _write_keys(self, table: str, name: str, keys: array[int]) -> None:
        write_bytes(self._keys_path(table, name), keys.tobytes())

    def _keys_path(self, table: str, name: str) -> Path:
        return self._folder / "keys" / f"{safe_name(self._sections[table])}-{name}.bin"

    def _duplicates(self, name: str, file: JsonlFile) -> list[JsonlFinding]:
        """Lines that say what an earlier line says, or (in the validation file) a line of the training file."""
        import numpy as np

        from vlm_pipeline.formatting.openai_report import JsonlFinding
        from vlm_pipeline.formatting.openai_validator import EARLIER, IN_TRAINING

        split, kind = name.split("_", 1)
        keys = self._all_keys(name, file)
        earlier = np.ones(len(keys), dtype=bool)
        earlier[np.unique(keys, return_index=True)[1]] = False
        trained = (
            np.isin(keys, self._all_keys(f"train_{kind}", file)) if split == "val" else np.zeros_like(earlier)
        )
        lines = np.flatnonzero(earlier | trained)[:_KEPT_FINDINGS].tolist()
        return [
            JsonlFinding("duplicate", EARLIER if earlier[line] else IN_TRAINING, line + 1, blocking=False)
            for line in lines
        ]

    def _all_keys(self, name: str, file: JsonlFile) -> Any:
        import numpy as np

        return np.concatenate(
            [np.fromfile(self._keys_path(table, name), dtype=np.uint64) for table in file.parts]
        )


def _counts(report: JsonlReport) -> dict[str, int]:
    return {
        name: getattr(report, name)
        for name in ("examples", "image_examples", "images", "tokens", "longest", "bytes")
    }


def _train_versions(store: TaskStore, section: str) -> dict[str, Any]:
    versions = (read_manifest(store, f"formatted/{section}") or {})["metadata"]["split_versions"]
    return {split: versions.get(split) for split in TRAINED}


def hosted_model(task: Task) -> str:
    """The model that the task fine-tunes at the provider; its image rule counts the tokens."""
    models = [predictor.model for predictor in task.predictors if predictor.kind == "openai_finetuned"]
    return models[0] if models else "gpt-4o-2024-08-06"
