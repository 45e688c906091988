"""Where a run stands, and what a checkpoint holds of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from vlm_pipeline.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from vlm_pipeline.training.recipe import Training


@dataclass
class Progress:
    """All of it goes into checkpoints. `seconds` are of optimizer steps; `tokens` were computed by all processes."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    token_budget: int = 0
    stopped: bool = False
    loss_curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    tokens: int = 0

    @property
    def accelerator_seconds(self) -> float:
        return self.seconds + self.evaluation_seconds

    def advance(self, epoch_steps: int) -> None:
        """A step is done; `epoch_steps` are those of the present epoch."""
        self.step += 1
        self.step_in_epoch += 1
        if self.step_in_epoch == epoch_steps:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def due(self, every: int | str) -> bool:
        """Whether something that happens every so many steps, or every "epoch", happens after this step."""
        return self.step_in_epoch == 0 if every == "epoch" else self.step % int(every) == 0


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in get_peft_model_state_dict(model).items()
    }


def snapshot(training: Training) -> Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""
    tensors = {f"adapter/{name}": value for name, value in adapter_tensors(training.model).items()}
    tensors |= {f"best/{name}": value for name, value in (training.best or {}).items()}
    random = {"cpu": torch.get_rng_state()}
    if training.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(training.device)
    optimizer = {
        "optimizer": training.optimizer.state_dict(),
        "scheduler": training.scheduler.state_dict(),
        "random": random,
    }
    training.progress.token_budget = training.budget.tokens
    state = {"progress": asdict(training.progress), "evaluations": training.evaluator.gate.state()}
    return Checkpoint(training.progress.step, tensors, optimizer, state)


def restore(training: Training, found: Checkpoint) -> None:
    parts: dict[str, dict[str, torch.Tensor]] = {"adapter": {}, "best": {}}
    for name, value in found.tensors.items():
        part, _, key = name.partition("/")
        parts[part][key] = value
    set_peft_model_state_dict(training.model, parts["adapter"])
    training.best = parts["best"] or None
    training.optimizer.load_state_dict(found.optimizer["optimizer"])
    training.scheduler.load_state_dict(found.optimizer["scheduler"])
    torch.set_rng_state(found.optimizer["random"]["cpu"])
    if "cuda" in found.optimizer["random"] and training.device.type == "cuda":
        torch.cuda.set_rng_state(found.optimizer["random"]["cuda"], training.device)
    training.progress = Progress(**found.state["progress"])
    training.budget.tokens = min(training.budget.tokens, training.progress.token_budget)
    training.evaluator.gate.restore(found.state["evaluations"])
