"""Loaded by every Python process that has this folder on its PYTHONPATH, before its program."""

from vlm_pipeline_tests.faults.killer import arm_from_environment

arm_from_environment()
