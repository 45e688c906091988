# Every target does its own set-up: virtual environment, pinned dependencies, Dagster home.
PYTHON ?= python3
TASK ?= manual_qa
EXAMPLES ?= 10
A ?= base
B ?= tuned
PORT ?= 8000
TEST_WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS ?= $(filter-out __init__ benchmark_model,$(basename $(notdir $(wildcard benchmarks/*.py))))
export DEEPEVAL_TELEMETRY_OPT_OUT := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: setup loop loop-stand-in improve train train-dev eval eval-quick eval-probes compare report changes serve ui test test-slow kill bench base-model data clean

setup: $(VENV)/.ready-run
	@$(BIN)/python -m vlm_pipeline.orchestration.home

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name it with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# .ready-run, .ready-test, .ready-bench: the package with that extra, as constraints.txt pins it.
$(VENV)/.ready-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

loop: setup  ## the whole chain of TASK: rows, training, evaluation, report
	@$(BIN)/python -m vlm_pipeline loop $(TASK)

loop-stand-in: setup $(VENV)/.ready-test  ## base, tuned, hosted and hosted fine-tune without a key, against the stand-in
	@$(BIN)/python -m vlm_pipeline_tests.servers.loop_stand_in $(TASK)

improve: setup  ## one round: new rows for the weak sections, the chain over them, kept or undone
	@$(BIN)/python -m vlm_pipeline improve $(TASK)

train: setup  ## rows to adapter only
	@$(BIN)/python -m vlm_pipeline train $(TASK)

train-dev: setup  ## the whole chain on EXAMPLES rows per section and split, in a store of its own
	@$(BIN)/python -m vlm_pipeline loop $(TASK) --max-examples $(EXAMPLES)

eval: setup  ## predict, measure and compare with the adapter there is
	@$(BIN)/python -m vlm_pipeline eval $(TASK)

eval-quick: setup  ## the same on EXAMPLES rows per section and split
	@$(BIN)/python -m vlm_pipeline eval $(TASK) --max-examples $(EXAMPLES)

eval-probes: setup  ## the hand-written critical questions
	@$(BIN)/python -m vlm_pipeline eval $(TASK) --max-examples 1 --probes

compare: setup  ## two predictors: B judged against A
	@$(BIN)/python -m vlm_pipeline eval $(TASK) --predictors $(A),$(B)

report: setup  ## the last decision again, and where its report lies
	@$(BIN)/python -m vlm_pipeline show $(TASK)

changes: setup  ## what changed between the last two reports, or between BEFORE=version and AFTER=version
	@$(BIN)/python -m vlm_pipeline changes $(TASK) $(BEFORE) $(AFTER)

serve: setup  ## an OpenAI-compatible server on the promoted adapter, else on the trained one, or on ADAPTER=id
	@$(BIN)/python -m vlm_pipeline.inference.serve data/$(TASK) --port $(PORT)$(if $(ADAPTER), --adapter $(ADAPTER))

ui: setup  ## Dagster UI with daemon
	$(BIN)/dg dev

test: export OMP_NUM_THREADS ?= 1
test: setup $(VENV)/.ready-test  ## lint, and all tests that take no minutes, TEST_WORKERS files at a time
	$(BIN)/ruff check vlm_pipeline vlm_pipeline_tests benchmarks
	$(BIN)/ruff format --check vlm_pipeline vlm_pipeline_tests benchmarks
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: setup $(VENV)/.ready-test  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

kill: setup $(VENV)/.ready-test  ## SIGKILL at many moments of the loop
	$(BIN)/python -m pytest -m kill $(PYTEST_ARGS)

bench: setup $(VENV)/.ready-bench  ## the side-by-side measurements; fails at the end when one misses its target
	@status=0; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || status=1; done; exit $$status

base-model: setup  ## rebuild data/base_model from its recipe
	$(BIN)/python -m vlm_pipeline.bundled.base_model

data: setup  ## rebuild the bundled tasks' rows and pictures from their seeds
	$(BIN)/python -m vlm_pipeline.bundled.make_data

clean:
	rm -rf .vlm_pipeline
