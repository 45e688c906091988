"""The training payload where one of several processes has little memory: `python -m …crowded REQUEST.json`."""

import os
import sys

import torch

from vlm_pipeline.compute.payload import run_payload
from vlm_pipeline.training.__main__ import work
from vlm_pipeline.training.forward import PackedForward

TOKENS = 60


def crowd() -> None:
    """While training, a forward pass of more tokens raises what a GPU raises."""
    loss = PackedForward.loss

    def small(self, packed):
        if torch.is_grad_enabled() and len(packed.input_ids) > TOKENS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(self, packed)

    PackedForward.loss = small


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        crowd()
    sys.exit(run_payload(work))
