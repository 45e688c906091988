"""Training: from formatted rows to an adapter with a completed record. Run as `python -m vlm_pipeline.training`.

Import the modules directly; this package re-exports nothing, so that loading the code location costs nothing.
"""
