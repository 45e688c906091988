"""Loading the code location is quick, and arrows between packages point down."""

import ast
import subprocess
import sys
from pathlib import Path

import vlm_pipeline

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "deepeval",
    "pandas",
    "datasets",
    "matplotlib",
    "scipy",
    "pyarrow.dataset",
}
PACKAGE = Path(vlm_pipeline.__file__).parent


def test_the_code_location_loads_without_heavy_libraries() -> None:
    code = f"import sys, vlm_pipeline.definitions; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == "[]"


def test_loading_the_code_location_costs_little_more_than_dagster_itself() -> None:
    """Seconds of processor time, which neighbours on the machine do not change; the bundled tasks are loaded."""
    code = (
        "import time, dagster; own = time.process_time(); import vlm_pipeline.definitions; "
        "print(time.process_time() - own)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )  # fmt: skip
    assert float(result.stdout) < 3


def test_only_the_orchestration_folder_and_the_definitions_import_dagster() -> None:
    importing = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if any(name == "dagster" or name.startswith("dagster.") for name in imported(file))
    }
    assert importing <= {"orchestration", "definitions.py"}


def test_no_domain_package_imports_the_orchestration() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in PACKAGE.rglob("*.py")
        if "orchestration" not in file.parts and file.name != "definitions.py"
        for name in imported(file)
        if name.startswith(("vlm_pipeline.orchestration", "vlm_pipeline.definitions"))
    ]
    assert wrong == []


def imported(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
