"""Rebuild the embedded base model."""

from vlm_pipeline.bundled.base_model.build import main

main()
