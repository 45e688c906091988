"""Sensors: what happens outside a run. They look, and ask for runs; the work stays in the assets.

All of them are off until they are switched on. Run keys are made of content, so that one event starts one run,
whatever is restarted in between.
"""

from __future__ import annotations

import dagster as dg

from vlm_pipeline.orchestration.automation import automation_sensor
from vlm_pipeline.orchestration.sensors.candidates import candidate_sensor
from vlm_pipeline.orchestration.sensors.fine_tune import fine_tune_sensor
from vlm_pipeline.orchestration.sensors.improve import improve_sensor
from vlm_pipeline.orchestration.sensors.raw_files import raw_file_sensor
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor
from vlm_pipeline.task import Task


def task_sensors(task: Task) -> list[dg.SensorDefinition]:
    fine_tuned = [one for one in task.predictors if isinstance(one, OpenAIFineTunedPredictor)]
    return [
        raw_file_sensor(task),
        candidate_sensor(task),
        automation_sensor(task),
        improve_sensor(task),
        *(fine_tune_sensor(task, predictor) for predictor in fine_tuned),
    ]
