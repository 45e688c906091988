"""The recipe: set up as for supervised training, go on from an adapter by reward, watch, and let `finish.py` save.

No checkpoints are resumed: a run that was interrupted starts again from the same adapter, and has left none.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from vlm_pipeline.compute.payload import PayloadError, Reporter
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.store import content_hash
from vlm_pipeline.training.base_shape import shape_of_base
from vlm_pipeline.training.grpo.needs import missing_trl
from vlm_pipeline.training.grpo.probabilities import Probabilities
from vlm_pipeline.training.grpo.reward import Judge, Judged
from vlm_pipeline.training.grpo.watch import Look, figures, sentence, watch
from vlm_pipeline.training.optimizer import make_optimizer, make_scheduler
from vlm_pipeline.training.plan import make_packer, make_plan
from vlm_pipeline.training.recipe import Training
from vlm_pipeline.training.request import JobSettings, TrainingRequest
from vlm_pipeline.training.rows import Row, Rows, check_rows, read_rows
from vlm_pipeline.training.throughput import Throughput

_KEPT = {  # TRL's name of a figure -> ours
    "loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm", "reward": "reward",
    "reward_std": "reward_std", "kl": "kl", "entropy": "entropy", "completions/clipped_ratio": "cut",
    "frac_reward_zero_std": "rows_without_signal",
}  # fmt: skip


class Grpo(Training):
    """One run: `prepare()`, `setup()`, `train()`; then `finish.finish` writes the adapter."""

    def __init__(self, request: TrainingRequest, job: JobSettings, reporter: Reporter) -> None:
        assert job.grpo is not None and request.from_adapter is not None
        self.grpo, self._configuration = job.grpo, job.grpo_hash()
        changed = {
            "learning_rate": self.grpo.learning_rate,
            "eval_steps": self.grpo.eval_steps,
            "gate_rows": self.grpo.val_rows,
            "gate_patience": self.grpo.patience,
        }
        settings = job.training.model_copy(update=changed)
        super().__init__(request, job.model_copy(update={"training": settings}), reporter)
        self.looks: list[Look] = []
        self._sampled: list[Judged] = []  # of the step under way

    # -- set-up ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Refuse before any weight is read: no TRL, several processes, no scorer that reads the format."""
        if missing := missing_trl():
            raise PayloadError(missing)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise PayloadError("grpo runs in one process: set compute.training to {kind: local}")
        if not self.job.scorers:
            raise PayloadError("grpo takes the task's first scorer as its reward, and the task has none")
        self.judge = Judge(self.job.scorers[0])
        super().prepare()

    def configuration(self) -> str:
        return self._configuration

    def _read_training_rows(self) -> Rows:
        """All train rows whose gold answer the scorer can read."""
        rows = read_rows(self.request.formatted, "train")
        self.section_versions, self.changed = rows.section_versions(), []
        unreadable = self.judge.unreadable(list(rows))
        if unreadable:
            name, reason = next(iter(unreadable.items()))
            self.reporter.say(
                f"{len(unreadable)} rows give no reward and are left out, for example {name}: {reason}"
            )
            rows = rows.subset([place for place, row in enumerate(rows) if row.id not in unreadable])
        check_rows(rows)
        return rows

    def _plan(self) -> None:
        """Steps are the settings'; what they take is known from the first ones on."""
        grpo, base = self.grpo, shape_of_base(str(self.base_folder))
        self.packer = make_packer(self.rows, self.job, base)
        self.plan = make_plan(
            self.packer, self.val, self.job, base
        )  # for evaluation: memory and token budget
        self.planned_seconds = None
        self.reporter.say(
            f"plan: {grpo.steps:,} steps of {grpo.prompts} prompts and {grpo.answers} answers to each, from "
            f"{self.request.from_adapter.name}; reward: {self.job.scorers[0].kind}, less {grpo.format_penalty:g} "
            f"for a wrong format; KL weight {grpo.kl:g}"
        )

    def _setup_optimization(self) -> None:
        self.total_steps = self.grpo.steps
        self.trainable = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = make_optimizer(self.trainable, self.settings)
        self.scheduler = make_scheduler(self.optimizer, self.settings, self.total_steps)
        self.meter = Throughput(self.model, self.device)
        self.gradients = None

    # -- training ----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step, or until the gate has seen no better answers for long enough."""
        from vlm_pipeline.training.grpo.trainer import REFERENCE, make_trainer

        self._evaluate()
        with tempfile.TemporaryDirectory() as scratch:  # TRL asks for a folder; nothing is written there
            trainer = make_trainer(
                self.model,
                getattr(self.processor, "tokenizer", self.processor),
                self.rows,
                Probabilities(
                    self.forward, self.processor, self.budget, self.grpo.temperature, packed=self.packed
                ),
                self._sample,
                self._after_step,
                (self.optimizer, self.scheduler),
                self._arguments(scratch),
                self.grpo.format_penalty,
            )
            self._started = time.perf_counter()
            trainer.train()
        del trainer
        if REFERENCE in self.model.peft_config:
            self.model.delete_adapter(REFERENCE)

    def _arguments(self, folder: str) -> dict[str, Any]:
        grpo, settings = self.grpo, self.settings
        wanted = grpo.prompts * grpo.answers
        at_once = min(grpo.answers_at_once or wanted, wanted)
        if wanted % at_once:
            raise PayloadError(
                f"grpo.answers_at_once {at_once} does not divide grpo.prompts * grpo.answers ({wanted})"
            )
        return {
            "output_dir": folder,
            "max_steps": grpo.steps,
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": wanted // at_once,
            "num_generations": grpo.answers,
            "max_completion_length": self.job.generation.max_new_tokens,
            "temperature": grpo.temperature,
            "beta": grpo.kl,
            "loss_type": "dr_grpo",  # a token weighs the same in long and short answers: Liu et al. 2025, arXiv:2503.20783
            "max_grad_norm": settings.clip,
            "gradient_checkpointing": settings.gradient_checkpointing,
            "disable_dropout": True,  # what is trained is what answered
            "bf16": False,  # the base is loaded in its precision, as in supervised training
            "use_cpu": self.device.type == "cpu",
            "seed": settings.seed,
            "data_seed": settings.seed,
            "remove_unused_columns": False,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def _sample(self, rows: Sequence[Row]) -> list[tuple[list[int], Judged]]:
        """One answer to each row, which may stand there several times; seeded by run, step, row and number."""
        sampled = self._answered(rows, self.progress.step)
        for row, (ids, judged) in zip(rows, sampled, strict=True):
            self.meter.count(row.n_prompt + len(ids), row.n_prompt + len(ids), 1)
            self.progress.tokens += row.n_prompt + len(ids)
            self._sampled.append(judged)
        return sampled

    def _answered(self, rows: Sequence[Row], occasion: int | str) -> list[tuple[list[int], Judged]]:
        """A sampled answer to each of the rows, with its stop token, and what it is worth."""
        generation = self.job.generation
        sampling = GenerationSettings(
            max_new_tokens=generation.max_new_tokens,
            stop=generation.stop,
            do_sample=True,
            temperature=self.grpo.temperature,
        )
        seeds = [
            int(content_hash([self.settings.seed, occasion, row.id, place], 15), 16)
            for place, row in enumerate(rows)
        ]
        sampled = []
        for row, answer in zip(rows, self.evaluator.answers(rows, sampling, seeds), strict=True):
            if answer.error is not None:
                raise PayloadError(f"row {row.id} cannot be answered: {answer.error}")
            ids = [*answer.ids, *([] if answer.end is None else [answer.end])]
            sampled.append((ids, self.judge(row, answer.text, len(answer.ids))))
        return sampled

    def _drawn(self, rows: Sequence[Row]) -> tuple[tuple[Judged, ...], ...]:
        """`val_answers` sampled answers to each of the rows, with the same seeds at every look."""
        count = self.grpo.val_answers
        if not count:
            return ()
        judged = [one for _, one in self._answered([row for row in rows for _ in range(count)], "val")]
        return tuple(tuple(judged[place : place + count]) for place in range(0, len(judged), count))

    def _after_step(self, logs: dict[str, float]) -> bool:
        """Log the step, look at val where it is due; returns whether to stop."""
        progress = self.progress
        progress.step = int(logs["step"])
        seconds = time.perf_counter() - self._started
        progress.seconds += seconds
        self.meter.step(seconds)
        entry = {ours: float(logs[theirs]) for theirs, ours in _KEPT.items() if logs.get(theirs) is not None}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(entry.get(name, 0.0)):
                raise PayloadError(
                    f"{name} is not a number at step {progress.step}. Lower grpo.learning_rate; nothing was written"
                )
        seen = figures(self._sampled, self.grpo.format_penalty)
        self._sampled = []
        entry |= {name: value for name, value in seen.items() if name != "reward"}
        progress.loss_curve.append({"step": progress.step, **entry})
        self.reporter.metric(progress.step, **entry)
        self.reporter.progress(
            "GRPO step",
            progress.step,
            self.total_steps,
            f"reward {entry['reward']:.3f} (content {entry['content']:.3f}, format {entry['format_valid']:.0%}), KL "
            f"{entry.get('kl', 0.0):.4f}, {entry['answer_tokens']:.0f} tokens an answer, {entry['refusing']:.1%} refuse",
        )
        if progress.step == self.total_steps or progress.step % self.grpo.eval_steps == 0:
            self._evaluate()
            self.model.train()
        self._hold_budget()
        self._started = time.perf_counter()
        return progress.stopped

    def _hold_budget(self) -> None:
        limit, progress = self.job.budget.accelerator_seconds, self.progress
        if limit is not None and progress.accelerator_seconds > limit and progress.step < self.total_steps:
            raise PayloadError(
                f"budget.accelerator_seconds ({limit:,.0f} s) is spent at GRPO step {progress.step} of "
                f"{self.total_steps}; nothing was written. Raise the budget or lower grpo.steps"
            )

    def _evaluate(self) -> None:
        super()._evaluate()
        answered = self.evaluator.answered
        if not answered:
            raise PayloadError(
                f"grpo compares start and end on val rows, and none can be scored: {self.evaluator.gate.why_off}"
            )
        judged = tuple(self.judge(row, answer.text, len(answer.ids)) for row, answer in answered)
        rows = [row for row, _ in answered]
        self.looks.append(
            Look(self.progress.step, judged, tuple(row.group for row in rows), self._drawn(rows))
        )
        seen = figures(judged, self.grpo.format_penalty)
        self.reporter.say("val answers: " + ", ".join(f"{name} {value:.3f}" for name, value in seen.items()))
        if len(self.looks) > 1:
            self.reporter.say(sentence(watch(self.looks[0], self.looks[-1], self.grpo)))
        self.reporter.metric(self.progress.step, **{f"val_{name}": value for name, value in seen.items()})

    def save_checkpoint(self) -> None:
        """None: nothing would go on from it."""

    # -- what the record says of the run -----------------------------------------------------------------------

    def refuse(self) -> None:
        """Raise PayloadError where no val answer is worth anything."""
        best = self.evaluator.gate.best
        if best is not None and best.score == 0:
            raise PayloadError("after GRPO no val answer scores anything. No adapter was written")

    def told(self, record: dict[str, Any]) -> dict[str, Any]:
        """The watch's figures and verdicts, on val rows, of the start and of the weights that are kept."""
        chosen = next(look for look in self.looks if look.step == record["chosen_step"])
        watched = watch(self.looks[0], chosen, self.grpo)
        self.reporter.say(sentence(watched))
        return {
            "grpo": {**watched, "start": self.request.from_adapter.name, "sentence": sentence(watched)},
            "plan": {"steps": {"planned": self.grpo.steps, "actual": record["steps"]}},
        }
