"""The recipe: set up and train; `finish.py` saves. LoRA or QLoRA on any image-text or text model of Transformers.

An optimizer step takes `batch_size * accumulation` rows, whatever shares an image with what; the loss is the mean
over the step's supervised tokens, so it does not depend on how the step is cut into forward passes or processes.
Under `accelerate launch` every process takes its share of a step's passes and the adapter's gradients are summed.
"""

from __future__ import annotations

import gc
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from vlm_pipeline.compute.payload import PayloadError, Reporter
from vlm_pipeline.formatting.template import (
    image_settings,
    load_processor,
    template_hash,
)
from vlm_pipeline.store import content_hash, write_json
from vlm_pipeline.training import adapters
from vlm_pipeline.training.base_model import (
    base_fingerprint,
    base_revision,
    load_base,
    pick_device,
    pick_dtype,
    resolve_base,
)
from vlm_pipeline.training.checkpoints import Checkpoint, Checkpoints
from vlm_pipeline.training.evaluation import Evaluator
from vlm_pipeline.training.forward import PackedForward, packing_fits
from vlm_pipeline.training.grouping import Bundle
from vlm_pipeline.training.images import ImageFeatures
from vlm_pipeline.training.lora_linear import fuse_lora
from vlm_pipeline.training.optimizer import make_optimizer, make_scheduler
from vlm_pipeline.training.plan import make_packer, make_plan, measured_throughput, schedule
from vlm_pipeline.training.preflight import check_formatting, start_version
from vlm_pipeline.training.request import JobSettings, TrainingRequest
from vlm_pipeline.training.rows import Row, Rows, check_rows, read_rows, replay_rows
from vlm_pipeline.training.throughput import Throughput


@dataclass
class Progress:
    """Where a run stands; all of it goes into checkpoints."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    token_budget: int = 0
    stopped: bool = False
    loss_curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


class Training:
    """One run: `prepare()`, `setup()`, `train()`; then `finish.finish` writes the adapter."""

    def __init__(self, request: TrainingRequest, job: JobSettings, reporter: Reporter) -> None:
        self.request, self.job, self.settings, self.reporter = request, job, job.training, reporter

    # -- set-up ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read rows and configuration; everything that can be refused is refused here, before any weight is read."""
        job = self.job
        self.base_folder = resolve_base(job.base_model, job.revision)
        adapters.check_targets(self.base_folder, job.lora)
        self.rows = self._read_training_rows()
        self.val = read_rows(self.request.formatted, "val")
        self.processor = load_processor(self.base_folder, image=job.image)
        check_formatting(self.request.formatted, self.processor)
        cache = self.request.cache
        self.fingerprint = base_fingerprint(
            self.base_folder, cache / "base_fingerprints.json" if cache else None
        )
        if self.request.base and "@" not in self.request.base and self.request.base != self.fingerprint:
            raise PayloadError(
                f"the weights of {job.base_model} ({self.fingerprint}) are not those that the run was started for "
                f"({self.request.base}); run again"
            )
        self.training_set = content_hash([self.rows.content(), self.val.content()])
        self.key = content_hash(
            [
                self.job.training_hash(),
                self.training_set,
                self.fingerprint,
                start_version(self.request.from_adapter, self.job.lora),
            ]
        )
        self._plan()

    def setup(self) -> None:
        """Load the model and put a fresh, continued or checkpointed adapter on it."""
        settings = self.settings
        self.accelerator = Accelerator(cpu=pick_device().type == "cpu")
        self.device = self.accelerator.device
        set_seed(settings.seed)
        self._setup_model()
        self._setup_data()
        self._setup_optimization()
        self.progress = Progress(token_budget=settings.token_budget)
        self.checkpoints = Checkpoints(
            self.request.checkpoints, self.key, settings.keep_checkpoints, self.reporter.say
        )
        self._resume()

    def _read_training_rows(self) -> Rows:
        rows = read_rows(self.request.formatted, "train")
        if self.request.from_adapter and self.request.changed_sections is not None:
            rows = replay_rows(rows, self.request.changed_sections, self.settings.replay, self.settings.seed)
        check_rows(rows)
        return rows

    def _plan(self) -> None:
        """Say what the run will take; refuse what the budget forbids."""
        self._planned: tuple[int, list[list[Bundle]]] | None = None
        self.packer = make_packer(self.rows, self.job, self.base_folder)
        measured = measured_throughput(self.request.cache, self.fingerprint, self.job)
        self.plan = plan = make_plan(self.packer, self.job, self.base_folder, measured)
        if self.request.plan:
            write_json(self.request.plan, plan.as_dict())
        duration = (
            f"about {plan.seconds:,.0f} s"
            if plan.seconds
            else "time unknown before the first run on this machine"
        )
        self.reporter.say(
            f"plan: {plan.rows:,} rows, {plan.steps:,} steps, {plan.packed_tokens:,} tokens an epoch "
            f"({plan.saved_by_sharing:.0%} saved by sharing), {duration}, about {plan.memory_bytes / 2**30:.2f} GiB"
        )
        for finding in plan.findings:
            self.reporter.say(f"finding: {finding}")
        if plan.blocked:
            raise PayloadError(plan.blocked)

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
                base,
                self.request.from_adapter,
                self.fingerprint,
                template_hash=template_hash(self.processor),
                trainable=True,
            )
            adapters.check_trainable(self.model, adapters.check_targets(self.base_folder, job.lora))
        else:
            self.model = adapters.add_lora(
                base, job.lora, job.base_model, base_revision(self.base_folder, job.revision)
            )
        fuse_lora(self.model)
        self.trainable = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
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
        members, prefix = max(
            self.packer.families,
            key=lambda family: (family[1] > 0, -int(self.packer.lengths[family[0][:2]].sum())),
        )
        self.model.eval()
        reason = packing_fits(
            self.forward, [self.rows[int(index)] for index in members[:2]], prefix, self.processor
        )
        self.packed = not reason
        if reason:
            self.reporter.say(f"packing does not fit this model, rows are padded instead: {reason}")
        self.evaluator = Evaluator(
            self.model, self.forward, self.processor, self.val, self.job,
            packed=self.packed, identity=self.fingerprint, cache=self.request.cache,
        )  # fmt: skip
        self.best: dict[str, torch.Tensor] | None = None

    def _setup_optimization(self) -> None:
        settings = self.settings
        self.epoch_steps, self.total_steps = schedule(self.packer, settings.epochs, settings.max_steps)
        self.optimizer = make_optimizer(list(self.trainable.values()), settings)
        self.scheduler = make_scheduler(self.optimizer, settings, self.total_steps)
        self.meter = Throughput(self.model, self.device)

    # -- training ----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step, or until the gate has seen no better answers for long enough."""
        progress, settings = self.progress, self.settings
        if progress.step == 0:
            self._evaluate()
        while progress.step < self.total_steps and not progress.stopped:
            started = time.perf_counter()
            steps = self._epoch_plan(progress.epoch)
            bundles = steps[progress.step_in_epoch]
            upcoming = steps[progress.step_in_epoch + 1 : progress.step_in_epoch + 3]
            loss, norm = self._step(bundles, upcoming)
            progress.step += 1
            progress.step_in_epoch += 1
            if progress.step_in_epoch == len(steps):
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            self.meter.step(seconds)
            self._log(loss, norm)
            last = progress.step == self.total_steps
            if last or progress.step % settings.eval_steps == 0:
                self._evaluate()
            if not last and progress.step % settings.save_steps == 0:
                self._save_checkpoint()
            self._hold_budget()
        if progress.stopped:
            self.reporter.say(
                f"stopped at step {progress.step}: no better answers for {settings.gate_patience} evaluations"
            )

    def _epoch_plan(self, number: int) -> list[list[Bundle]]:
        if self._planned is None or self._planned[0] != number:
            self._planned = (number, self.packer.epoch(number)[: self.epoch_steps[number]])
        return self._planned[1]

    def _hold_budget(self) -> None:
        limit, progress = self.job.budget.accelerator_seconds, self.progress
        if limit is not None and progress.seconds > limit and progress.step < self.total_steps:
            self._save_checkpoint()
            raise PayloadError(
                f"budget.accelerator_seconds ({limit:,.0f} s) is spent at step {progress.step} of {self.total_steps}; the "
                "checkpoint is kept. Raise the budget and run the same command to go on from it"
            )

    def _step(self, bundles: list[Bundle], upcoming: list[list[Bundle]]) -> tuple[float, float]:
        """One optimizer step; out of memory halves the token budget and takes the same rows again."""
        while True:
            try:
                loss = self._backward(bundles, upcoming)
                break
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                self._halve_budget(error)
        if not torch.isfinite(torch.tensor(loss)):
            raise PayloadError(self._diverged("the loss", bundles))
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable.values(), self.settings.clip))
        if not torch.isfinite(torch.tensor(norm)):
            raise PayloadError(self._diverged("the gradient", bundles))
        self.optimizer.step()
        self.scheduler.step()
        return loss, norm

    def _backward(self, bundles: list[Bundle], upcoming: list[list[Bundle]]) -> float:
        """Gradient of the mean loss over the step's supervised tokens; returns that loss."""
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        rows = {index: self.rows[index] for bundle in bundles for index in bundle.rows}
        supervised = sum(row.n_supervised for row in rows.values())
        total = torch.zeros((), device=self.device)
        passes = self.packer.passes(bundles, self.progress.token_budget)
        self._prefetch(upcoming)
        for one in passes[self.accelerator.process_index :: self.accelerator.num_processes]:
            loss = self._loss([([rows[index] for index in bundle.rows], bundle.prefix) for bundle in one])
            (loss / supervised).backward()
            total += loss.detach()
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, "sum")
            for value in self.trainable.values():
                value.grad = self.accelerator.reduce(
                    torch.zeros_like(value) if value.grad is None else value.grad, "sum"
                )
        return float(total) / supervised

    def _loss(self, bundles: list[tuple[list[Row], int]]) -> torch.Tensor:
        """Sum of the loss over supervised tokens of one forward pass."""
        if self.packed:
            packed = self.forward.pack(bundles)
            self.meter.count(len(packed.input_ids), packed.row_tokens, packed.rows)
            return self.forward.loss(packed)
        rows = [row for members, _ in bundles for row in members]
        tokens = sum(len(row.input_ids) for row in rows)
        self.meter.count(tokens, tokens, len(rows))
        return self.forward.padded_losses(rows, self.processor).sum()

    def _prefetch(self, upcoming: list[list[Bundle]]) -> None:
        if self.forward.features is None or not self.packed:
            return
        rows = [self.rows[bundle.rows[0]] for step in upcoming for bundle in step]
        self.forward.features.prefetch((row, number) for row in rows for number in range(len(row.images)))

    def _halve_budget(self, error: Exception) -> None:
        text = str(error)
        out_of_memory = (
            isinstance(error, (torch.OutOfMemoryError, MemoryError))
            or "can't allocate memory" in text
            or "out of memory" in text
        )
        if not out_of_memory or self.accelerator.num_processes > 1:
            raise error
        if self.progress.token_budget <= int(self.packer.lengths.min()):
            raise PayloadError(
                "out of memory with one row in a forward pass; use gradient_checkpointing, quantization or smaller images"
            ) from error
        self.progress.token_budget //= 2
        self.optimizer.zero_grad(set_to_none=True)
        self._free_memory()
        self.reporter.say(
            f"out of memory at step {self.progress.step + 1}: the token budget is now {self.progress.token_budget:,}"
        )

    def _diverged(self, what: str, bundles: list[Bundle]) -> str:
        names = [self.rows[index].id for bundle in bundles for index in bundle.rows][:5]
        kept = self.checkpoints.latest_step()
        return (
            f"{what} is not a number at step {self.progress.step + 1} (rows {', '.join(names)} ...). Lower training.learning_rate or check "
            f"these rows; {f'the checkpoint of step {kept} is intact' if kept else 'nothing was written'}"
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
            f"loss {loss:.4f}, {speed['row_tokens_per_second']:,.0f} tokens/s",
        )

    # -- evaluation and checkpoints ----------------------------------------------------------------------------

    def _evaluate(self) -> None:
        evaluation = self.evaluator.evaluate(self.progress.step)
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
            self.best = self._adapter_tensors()
        self.progress.stopped = self.evaluator.gate.exhausted

    def _adapter_tensors(self) -> dict[str, torch.Tensor]:
        return {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in get_peft_model_state_dict(self.model).items()
        }

    def _save_checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {f"adapter/{name}": value for name, value in self._adapter_tensors().items()}
        tensors |= {f"best/{name}": value for name, value in (self.best or {}).items()}
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        optimizer = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random,
        }
        state = {"progress": asdict(self.progress), "evaluations": self.evaluator.gate.state()}
        self.checkpoints.save(Checkpoint(self.progress.step, tensors, optimizer, state))

    def _resume(self) -> None:
        found = self.checkpoints.load_latest()
        if found is None:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"adapter": {}, "best": {}}
        for name, value in found.tensors.items():
            part, _, key = name.partition("/")
            parts[part][key] = value
        set_peft_model_state_dict(self.model, parts["adapter"])
        self.best = parts["best"] or None
        self.optimizer.load_state_dict(found.optimizer["optimizer"])
        self.scheduler.load_state_dict(found.optimizer["scheduler"])
        torch.set_rng_state(found.optimizer["random"]["cpu"])
        if "cuda" in found.optimizer["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(found.optimizer["random"]["cuda"], self.device)
        self.progress = Progress(**found.state["progress"])
        self.evaluator.gate.restore(found.state["evaluations"])
        self.reporter.say(f"resumed from the checkpoint of step {found.step}")

    def release_model(self) -> None:
        """Free the trained model before another is loaded; afterwards only rows, settings and checkpoints are left."""
        del (
            self.model,
            self.forward,
            self.evaluator,
            self.optimizer,
            self.scheduler,
            self.trainable,
            self.meter,
        )
        self._free_memory()

    @staticmethod
    def _free_memory() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
