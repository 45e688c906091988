"""Task folders with mistakes, or made to do harm: each is named with line and remedy, and hides no other task."""

from pathlib import Path

import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.task import TASKS_VARIABLE, load_task, load_tasks
from vlm_pipeline.task_yaml import TaskFileError
from vlm_pipeline_tests.test_task import GOOD, mistakes, write

HOSTED = "  - {{name: {}, kind: openai, model: m}}\n"
RIVALS = GOOD.replace("scorers:", HOSTED.format("gpt-4o") + HOSTED.format("gpt_4o") + "scorers:")
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BROKEN = {  # what was written -> how the message goes on after the file's name
    "owner": (GOOD + "owner: Jane Doe\n", "line 8: owner: 'Jane Doe' is no owner: write an e-mail address, or team"),
    "part_of_a_preset": (GOOD + "preset: small_set\nlora: 5\n", "line 9: lora: Input should be a valid dictionary"),
    "preset": (GOOD + "preset: servce_manual\n", "line 8: preset: 'servce_manual' is not known; did you mean 'service_manual'?"),
    "preset_list": (GOOD + "preset: [small_set]\n", "line 8: preset: ['small_set'] is not known"),
    "kid": (GOOD.replace("{name: base, kind:", "{name: base, kid:"), "line 4: predictors.0.kind: is missing; did you mean it by 'kid'?"),
    "kind": (GOOD.replace("quantity", "quantty"), "line 7: scorers.0.kind: 'quantty' is not known; did you mean 'quantity'?"),
    "choice": (GOOD + "training: {scheduler: cosin}\n", "line 8: training.scheduler: 'cosin' is not known; did you mean 'cosine'?"),
    "steps_of_one_name": (RIVALS, "line 3: predictors: predictor names must differ in more than case, - and _"),
    "columns_of_one_name": (GOOD + "  - kind: quantity\n", "line 6: scorers: scorer names must differ"),
    "two-words": (GOOD, "line 1: name: 'two-words' is no task name"),
    "alias_of_itself": (GOOD + "lora: &a\n  x: *a\n", "line 8: this part refers to itself by an alias; write it out"),
    "aliases_of_aliases": (BOMB, "more than 20,000 settings; are aliases repeated?"),
    "nested": ("[" * 5000, "settings are nested too deeply"),
    "date": (GOOD + "title: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
    "control_character": (GOOD + "\x00", "not valid YAML: unacceptable character"),
    "two_sources": (GOOD + "source: {hub: a/b, path: raw}\n", "line 8: source: rows come from path (raw) or from hub (a/b)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    for name, (text, _) in BROKEN.items():
        write(root / name, text)
    write(root / "sound", GOOD)
    return root


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_named_with_its_line_and_a_remedy(folder: Path, name: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        load_task(folder / name)
    assert BROKEN[name][1] in str(caught.value)


def test_a_broken_task_does_not_hide_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these took the whole code location down, or said nothing of use."""
    tasks, unusable = load_tasks(str(folder))
    assert [task.name for task in tasks] == ["sound"]
    assert [task.folder.name for task in unusable] == sorted(BROKEN)
    monkeypatch.setenv(TASKS_VARIABLE, str(folder))
    defs = build_defs()
    assert defs.resolve_job_def("retrain_and_eval_sound")
    shown = {spec.key.path[0]: spec.description for spec in defs.resolve_all_asset_specs()}
    for name, (_, message) in BROKEN.items():
        assert message in str(shown[name.replace("-", "_")])


def test_an_error_that_nobody_foresaw_stays_in_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(task: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("vlm_pipeline.task.load_with_lines", refuses)
    tasks, unusable = load_tasks(str(folder))
    assert tasks == [] and all("RuntimeError: no such thing" in task.message for task in unusable)
    monkeypatch.undo()
    monkeypatch.setattr("vlm_pipeline.definitions.task_assets", refuses)
    sound = load_task(folder / "sound")
    (spec,) = build_defs(tasks=[sound]).resolve_all_asset_specs()
    assert "RuntimeError: no such thing" in str(spec.description)


def test_folders_of_one_name_and_a_task_of_that_name_get_a_key_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in ("a", "b", "c"):
        write(tmp_path / root / "same", GOOD if root == "a" else "sections: []\n")
    write(tmp_path / "a" / "other", GOOD + "name: Same\n")
    monkeypatch.setenv(TASKS_VARIABLE, ":".join(str(tmp_path / root) for root in "abc"))
    tasks, unusable = load_tasks()
    assert [task.name for task in tasks] == ["Same"]
    assert f"the name 'same' is taken by {tasks[0].root}; rename one" in unusable[0].message
    specs = [spec for spec in build_defs().resolve_all_asset_specs() if spec.group_name == "needs_attention"]
    assert [spec.key.to_user_string() for spec in specs] == [
        "same/task_yaml_has_mistakes",
        "same/task_yaml_has_mistakes_2",
        "same/task_yaml_has_mistakes_3",
    ]


def test_a_folder_of_tasks_that_is_not_there_is_said_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path / "here" / "sound", GOOD)
    tasks, (missing,) = load_tasks(f"{tmp_path / 'gone'}:{tmp_path / 'here'}:{tmp_path / 'here' / 'sound'}")
    assert [task.name for task in tasks] == ["sound"]
    assert missing.message.startswith(f"{tmp_path / 'gone'} holds no tasks (No such file or directory)")


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("source: {path: ../../../etc}", "source.path"),
        ("source: {path: /etc}", "source.path"),
        ("source: {images: raw/../..}", "source.images"),
        ("probes: ../../../etc/passwd", "probes"),
        ("regeneration: {facts: ../secret.jsonl}", "regeneration.facts"),
        ("judging: {calibration: /etc/passwd}", "judging.calibration"),
        ("prompt: {few_shot: [{question: q, answer: a, image: ../x.png}]}", "prompt.few_shot.0.image"),
        ("probes: linked/passwd", "probes"),
        ("source: {path: linked}", "source.path"),
    ],
)
def test_nothing_outside_the_task_folder_is_named_by_it(tmp_path: Path, setting: str, field: str) -> None:
    """A folder from somebody else must not make a loop read, show or upload what lies beside it."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "linked").symlink_to("/etc")
    (message,) = mistakes(tmp_path, GOOD + setting + "\n")
    assert f"line 8: {field}: " in message and "leads out of the task folder" in message


def test_a_default_folder_that_is_a_link_to_somewhere_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "raw").symlink_to("/etc")
    (message,) = mistakes(tmp_path, GOOD)
    assert "source.path: 'raw' leads out of the task folder" in message


def test_data_of_ones_own_may_lie_elsewhere_when_the_task_says_so(tmp_path: Path) -> None:
    text = GOOD + f"source: {{path: {tmp_path}/rows.jsonl, images: ../pictures, outside: true}}\n"
    task = load_task(write(tmp_path / "demo", text))
    assert task.source_path == tmp_path / "rows.jsonl"
    assert task.images_path.resolve() == tmp_path / "pictures"
