"""LoRA, training and quantization settings, with the two presets that ship by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vlm_pipeline.settings.base import Settings

LANGUAGE_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


Every = Annotated[int, Field(gt=0)] | Literal["epoch"]  # so many optimizer steps, or the end of every epoch


class LoraSettings(Settings):
    """Adapter shape. Hu et al. 2021, arXiv:2106.09685."""

    r: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = LANGUAGE_LINEARS  # in the language model only, unless `vision`
    vision: bool = False  # also adapt the vision tower


class TrainingSettings(Settings):
    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, gt=0)
    batch_size: int = Field(4, gt=0)  # an optimizer step takes batch_size * accumulation rows;
    accumulation: int = Field(4, gt=0)  # token_budget decides how many go through the model at once
    learning_rate: float = Field(2e-4, gt=0)
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0)  # below 1: share of all steps, else steps
    clip: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"  # paged: NVIDIA GPUs
    gradient_checkpointing: bool = False
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it, else float32
    packing: Literal["shared", "none"] = "shared"  # questions of one image in one sequence
    # Tokens that go through the model at once. None: 4,096 on a GPU; on a CPU, where more is not faster, what holds the
    # largest group, from 1,024 to 4,096.
    token_budget: int | None = Field(None, gt=0)
    # How packed branches are kept apart. auto: packed. flex: FlexAttention on a GPU; its gradient is untested here.
    attention: Literal["auto", "packed", "dense", "flex"] = "auto"
    image_feature_memory_mb: int = Field(
        512, gt=0
    )  # frozen image features kept in memory; the rest goes to disk
    eval_steps: Every = 100
    save_steps: Every = 100
    log_steps: int = Field(10, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    eval_rows: int = Field(256, ge=0)  # val rows whose loss is measured at each evaluation
    gate_rows: int = Field(32, ge=0)  # val rows generated at each evaluation; 0 switches the gate off
    gate_zero: Literal["refuse", "warn"] = "refuse"  # when the loss fell and no val answer scores anything
    gate_patience: int = Field(5, gt=0)  # evaluations without a better task score before stopping
    seed: int = 0
    workers: int = Field(2, ge=0)
    # Go on from an adapter: "promoted", "previous" (what the asset held before), or an id. A predictor with
    # `adapter: continued` trains both ways: its adapter goes on, that of `adapter: trained` starts fresh.
    from_adapter: str | None = None
    replay: float = Field(
        1.0, ge=0, le=1
    )  # with from_adapter: share of the rows of unchanged sections trained again


class QuantizationSettings(Settings):
    """QLoRA: the frozen base in 4 bits. Dettmers et al. 2023, arXiv:2305.14314."""

    mode: Literal["none", "nf4", "int8"] = "none"
    double: bool = True
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


PresetName = Literal["service_manual", "small_set"]
PRESETS: dict[PresetName, dict[str, dict[str, Any]]] = {
    "service_manual": {
        "lora": {"r": 64, "alpha": 128, "dropout": 0.05},
        "training": {
            "epochs": 3, "batch_size": 4, "accumulation": 4, "learning_rate": 2e-4, "scheduler": "cosine",
            "warmup": 0.03, "clip": 1.0, "eval_steps": 100, "save_steps": 100, "log_steps": 10,
        },
        "quantization": {"mode": "nf4", "double": True, "compute_dtype": "bfloat16"},
    },
    "small_set": {
        "lora": {},
        "training": {"epochs": 5, "batch_size": 2, "accumulation": 1, "learning_rate": 2e-5, "warmup": 50},
        "quantization": {},
    },
}  # fmt: skip
