"""The recipe: set up and train; `finish.py` saves. LoRA or QLoRA on any image-text or text model of Transformers.

An optimizer step takes `batch_size * accumulation` rows, whatever shares an image with what; the loss is the mean
over the step's supervised tokens, so it does not depend on how the step is cut into forward passes or processes.
Under `accelerate launch` every process takes its share of a step's passes and the adapter's gradients are summed.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from vlm_pipeline.compute.payload import PayloadError, Reporter
from vlm_pipeline.formatting.template import image_settings, load_processor
from vlm_pipeline.store import content_hash
from vlm_pipeline.training import adapters
from vlm_pipeline.training.base_model import (
    base_fingerprint,
    base_identity,
    base_revision,
    load_base,
    pick_device,
    pick_dtype,
    resolve_base,
)
from vlm_pipeline.training.base_shape import shape_of_base
from vlm_pipeline.training.checkpoints import Checkpoints
from vlm_pipeline.training.evaluation import Evaluator
from vlm_pipeline.training.forward import PackedForward, packing_fits
from vlm_pipeline.training.gate import refuse_or_warn
from vlm_pipeline.training.grouping import Bundle
from vlm_pipeline.training.images import ImageFeatures
from vlm_pipeline.training.lora_linear import fuse_lora
from vlm_pipeline.training.memory import TokenBudget, free_memory, no_room, out_of_memory, used_memory
from vlm_pipeline.training.optimizer import make_optimizer, make_scheduler
from vlm_pipeline.training.plan import (
    Speed,
    actuals,
    make_packer,
    make_plan,
    measured_speed,
    over_budget,
    planned_seconds,
    remember_speed,
)
from vlm_pipeline.training.preflight import check_device, check_formatting, check_start
from vlm_pipeline.training.progress import Progress, adapter_tensors, restore, snapshot
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.request import JobSettings, TrainingRequest
from vlm_pipeline.training.rows import Rows, changed_sections, check_rows, read_rows, replay_rows
from vlm_pipeline.training.shortcuts import fuse_norms
from vlm_pipeline.training.step import Gradients
from vlm_pipeline.training.throughput import Throughput


class Training:
    """One run: `prepare()`, `setup()`, `train()`; then `finish.finish` writes the adapter."""

    def __init__(self, request: TrainingRequest, job: JobSettings, reporter: Reporter) -> None:
        self.request, self.job, self.settings, self.reporter = request, job, job.training, reporter

    # -- set-up ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read rows and configuration; everything that can be refused is refused here, before any weight is read."""
        job, request = self.job, self.request
        check_device(self.settings, pick_device().type)
        self.base_folder = resolve_base(job.base_model, job.revision)
        self.wanted_modules = adapters.check_targets(self.base_folder, job.lora)
        self.rows = self._read_training_rows()
        self.val = read_rows(request.formatted, "val")
        self.processor = load_processor(self.base_folder, image=job.image)
        check_formatting(request.formatted, self.processor)
        cache = request.cache
        self.fingerprint = base_fingerprint(
            self.base_folder, cache / "base_fingerprints.json" if cache else None
        )
        if request.base and "@" not in request.base and request.base != self.fingerprint:
            raise PayloadError(
                f"the weights of {job.base_model} ({self.fingerprint}) are not those that the run was started for "
                f"({request.base}); run again"
            )
        start = check_start(request.from_adapter, job.lora, self.fingerprint, self.processor)
        self.training_set = content_hash([self.rows.content(), self.val.content()])
        self.key = content_hash([self.configuration(), self.training_set, self.fingerprint, start])
        self.checkpoints = Checkpoints(
            request.checkpoints, self.key, self.settings.keep_checkpoints, self.reporter.say
        )
        self._plan()

    def configuration(self) -> str:
        """Hash of the settings that the weights depend on."""
        return self.job.training_hash()

    def setup(self) -> None:
        """Load the model and put a fresh, continued or checkpointed adapter on it."""
        settings, say = self.settings, self.reporter.say
        self.accelerator = Accelerator(cpu=pick_device().type == "cpu")
        self.device = self.accelerator.device
        self.idle_memory = used_memory(self.device)
        set_seed(settings.seed)
        self._setup_model()
        self.budget = TokenBudget(self.plan.token_budget, int(self.packer.lengths.min()), say)
        self._setup_data()
        self._setup_optimization()
        self.progress = Progress()
        found = self.checkpoints.load_latest()
        if found is not None:
            restore(self, found)
            say(f"resumed from the checkpoint of step {found.step}")

    def _read_training_rows(self) -> Rows:
        """All train rows; going on from an adapter, those of changed sections and a share of the others."""
        rows = read_rows(self.request.formatted, "train")
        self.section_versions, self.changed = rows.section_versions(), []
        start = self.request.from_adapter
        if start is not None:
            self.changed = changed_sections(read_record(start), rows)
        if self.changed:
            kept = replay_rows(rows, self.changed, self.settings.replay, self.settings.seed)
            self.reporter.say(
                f"going on from {start.name}: changed since are {', '.join(self.changed)}; {len(kept)} of {len(rows)} rows "
                f"are trained (replay {self.settings.replay:g} of the other sections)"
            )
            rows = kept
        check_rows(rows)
        return rows

    def _plan(self) -> None:
        """Say what the run will take; refuse what the budget forbids."""
        self._planned: tuple[int, list[list[Bundle]]] | None = None
        base, job, cache = shape_of_base(str(self.base_folder)), self.job, self.request.cache
        self.packer = make_packer(self.rows, job, base)
        self.plan = plan = make_plan(self.packer, self.val, job, base)
        self.identity = base_identity(job.base_model, job.revision, cache) if cache else self.fingerprint
        self.planned_seconds = planned_seconds(plan, measured_speed(cache, self.identity, job))
        duration = (
            "time unknown before the first run on this machine"
            if self.planned_seconds is None
            else f"about {self.planned_seconds:,.0f} s"
        )
        self.reporter.say(
            f"plan: {plan.rows:,} rows, {plan.steps:,} steps, {plan.packed_tokens:,} tokens an epoch "
            f"({plan.saved_by_sharing:.0%} saved by sharing), {duration}, about {plan.memory_bytes / 2**30:.2f} GiB"
        )
        for finding in plan.findings:
            self.reporter.say(f"finding: {finding}")
        blocked = over_budget(self.planned_seconds, job.budget)
        if blocked:
            raise PayloadError(blocked)

    def load_base(self) -> Any:
        dtype = pick_dtype(self.settings.precision, self.device)
        return load_base(self.base_folder, dtype, self.device, self.job.quantization)

    def _setup_model(self) -> None:
        job = self.job
        base = self.load_base()
        if self.settings.gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        if self.request.from_adapter:
            self.model = adapters.load_adapter(
                base, self.request.from_adapter, self.fingerprint, trainable=True
            )
            adapters.check_trainable(self.model, self.wanted_modules)
        else:
            self.model = adapters.add_lora(
                base, job.lora, job.base_model, base_revision(self.base_folder, job.revision)
            )
        fuse_lora(self.model)
        fuse_norms(base.get_decoder())
        self.adapted = adapters.adapted_modules(self.model)
        self.reporter.say(
            f"{adapters.trainable_parameters(self.model):,} trainable parameters in {len(self.adapted)} modules on {self.device}"
        )

    def forward_of(self, base: Any) -> PackedForward:
        """The packed forward on a base; image features are shared where the vision tower is frozen."""
        features = None
        if image_settings(self.processor) is not None:
            cache = self.request.cache
            features = ImageFeatures(
                base, self.processor, identity=self.fingerprint, memory_bytes=self.settings.image_feature_memory_mb * 2**20,
                folder=cache / "image_features" if cache else None, workers=self.settings.workers, frozen=not self.job.lora.vision,
            )  # fmt: skip
        return PackedForward(base, features, self.settings.attention)

    def _setup_data(self) -> None:
        self.forward = self.forward_of(self.model.get_base_model())
        self.model.eval()
        try:
            reason = packing_fits(self.forward, self.packer, self.processor)
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                raise no_room("while packing was tried") from error
            raise
        self.packed = not reason
        if reason:
            self.reporter.say(f"packing does not fit this model, rows are padded instead: {reason}")
        self.evaluator = Evaluator(
            self.model, self.forward, self.processor, self.val, self.job, self.budget, packed=self.packed
        )
        self.best: dict[str, torch.Tensor] | None = None

    def _setup_optimization(self) -> None:
        settings = self.settings
        self.total_steps = self.plan.steps
        self.trainable = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = make_optimizer(self.trainable, settings)
        self.scheduler = make_scheduler(self.optimizer, settings, self.total_steps)
        self.meter = Throughput(self.model, self.device, self.accelerator.num_processes)
        self.gradients = Gradients(
            self.model, self.forward, self.packer, self.processor, self.accelerator, self.budget, self.meter,
            packed=self.packed,
        )  # fmt: skip

    # -- training ----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step, or until the gate has seen no better answers for long enough."""
        progress, settings = self.progress, self.settings
        if progress.step == 0:
            self._evaluate()
        while progress.step < self.total_steps and not progress.stopped:
            started = time.perf_counter()
            steps = self._epoch_plan(progress.epoch)
            loss, norm = self._step(
                steps[progress.step_in_epoch],
                steps[progress.step_in_epoch + 1 : progress.step_in_epoch + 3],
            )
            progress.advance(len(steps))
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            progress.tokens += self.gradients.tokens
            self.meter.step(seconds)
            self._log(loss, norm)
            last = progress.step == self.total_steps
            if last or progress.due(settings.eval_steps):
                self._evaluate()
            if not last and progress.due(settings.save_steps):
                self.save_checkpoint()
            self._hold_budget()
        if progress.stopped:
            self.reporter.say(
                f"stopped at step {progress.step}: no better answers for {settings.gate_patience} evaluations"
            )

    def _epoch_plan(self, number: int) -> list[list[Bundle]]:
        if self._planned is None or self._planned[0] != number:
            self._planned = (number, self.packer.epoch(number)[: self.plan.epoch_steps[number]])
        return self._planned[1]

    def _step(self, bundles: list[Bundle], upcoming: list[list[Bundle]]) -> tuple[float, float]:
        """One optimizer step; returns its loss and the gradient's norm before clipping."""
        loss = self.gradients.of_step(bundles, upcoming, self.progress.step + 1)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable, self.settings.clip))
        for name, value in (("the loss", loss), ("the gradient", norm)):
            if not math.isfinite(value):
                raise PayloadError(self._diverged(name, bundles))
        self.optimizer.step()
        self.scheduler.step()
        return loss, norm

    def _diverged(self, what: str, bundles: list[Bundle]) -> str:
        names = [self.rows[index].id for bundle in bundles for index in bundle.rows][:5]
        kept = self.checkpoints.latest_step()
        return (
            f"{what} is not a number at step {self.progress.step + 1} (rows {', '.join(names)} ...). Lower training.learning_rate or check "
            f"these rows; {f'the checkpoint of step {kept} is intact' if kept else 'nothing was written'}"
        )

    def _hold_budget(self) -> None:
        limit, progress = self.job.budget.accelerator_seconds, self.progress
        over = limit is not None and progress.accelerator_seconds > limit
        if over and not progress.stopped and progress.step < self.total_steps:
            self.save_checkpoint()
            raise PayloadError(
                f"budget.accelerator_seconds ({limit:,.0f} s) is spent at step {progress.step} of {self.total_steps}; the "
                "checkpoint is kept. Raise the budget and run the same command to go on from it"
            )

    def _log(self, loss: float, norm: float) -> None:
        progress = self.progress
        rate = self.scheduler.get_last_lr()[0]
        speed = self.meter.rates()
        entry = {"step": progress.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, **speed}
        if progress.step % self.settings.log_steps == 0 or progress.step in (1, self.total_steps):
            progress.loss_curve.append(entry)
            self.reporter.metric(**entry)
        self.reporter.progress(
            "training step",
            progress.step,
            self.total_steps,
            f"loss {loss:.4f}, learning rate {rate:.2g}, {speed['row_tokens_per_second']:,.0f} tokens/s, "
            f"{speed['utilisation']:.0%} of peak",
        )

    # -- evaluation and checkpoints ----------------------------------------------------------------------------

    def _evaluate(self) -> None:
        started = time.perf_counter()
        evaluation = self.evaluator.evaluate(self.progress.step)
        self.progress.evaluation_seconds += time.perf_counter() - started
        if evaluation.val_loss is None:
            return
        self.reporter.say(evaluation.line())
        for sample in evaluation.samples:
            self.reporter.say(f"  {sample['id']}: {sample['text'][:120]!r} (gold {sample['answer'][:120]!r})")
        measured = {
            "val_loss": evaluation.val_loss,
            "task_score": evaluation.score,
            "compliance": evaluation.compliance,
        }
        figures = {name: value for name, value in measured.items() if value is not None}
        self.progress.loss_curve.append({"step": self.progress.step, **figures})
        self.reporter.metric(self.progress.step, **figures, samples=evaluation.samples)
        if self.evaluator.gate.best is evaluation:
            self.best = adapter_tensors(self.model)
        self.progress.stopped = self.evaluator.gate.exhausted

    def save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            self.checkpoints.save(snapshot(self))

    # -- what the record says of the run, see `finish.py` ------------------------------------------------------

    def refuse(self) -> None:
        """Raise PayloadError, or warn, where the answers are worth nothing although the loss fell."""
        losses = [entry["loss"] for entry in self.progress.loss_curve if "loss" in entry]
        verdict = self.evaluator.gate.verdict(losses[0], min(losses[-3:]))
        refuse_or_warn(verdict, self.settings.gate_zero, self.reporter.say)

    def told(self, record: dict[str, Any]) -> dict[str, Any]:
        """What a record says beside the figures that all have; remembers this machine's speed for the next plan."""
        progress = self.progress
        evaluations = len(self.evaluator.gate.evaluations)
        speed = Speed(
            progress.tokens / max(progress.seconds, 1e-9), progress.evaluation_seconds / evaluations
        )
        if self.accelerator.is_main_process:
            remember_speed(self.request.cache, self.identity, self.job, speed)
        return {"plan": actuals(self.plan, self.planned_seconds, record)}

    def release_model(self) -> None:
        """Free the trained model before another is loaded; afterwards only rows, settings and checkpoints are left."""
        del self.model, self.forward, self.evaluator, self.gradients, self.optimizer, self.scheduler
        del self.trainable, self.meter
        free_memory()
