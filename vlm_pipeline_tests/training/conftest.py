from pathlib import Path

import pytest

from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline_tests.training import tiny


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory):
    return tiny.save_vision_model(tmp_path_factory.mktemp("base") / "vision")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    return tiny.save_text_model(tmp_path_factory.mktemp("base") / "text")


@pytest.fixture(scope="session")
def processor(vision_model):
    return load_processor(vision_model)


@pytest.fixture(scope="session")
def table(tmp_path_factory, processor):
    from vlm_pipeline_tests.training.runs import page_rows

    folder = tmp_path_factory.mktemp("rows")
    return tiny.write_rows(folder / "torque.parquet", page_rows(processor, folder / "images"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, vision_model, table):
    """A finished training of a few steps."""
    from vlm_pipeline_tests.training.runs import make_request, run

    request = make_request(tmp_path_factory.mktemp("trained"), "run", vision_model, table, epochs=1)
    run(request)
    return Path(request["output"])
