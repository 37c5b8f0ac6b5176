from __future__ import annotations

from pathlib import Path

import pytest

from temper.errors import RecipeError
from temper.recipe.load import load
from temper.recipe.schema import Recipe
from temper.techniques.sft import SFT

GOOD = """\
base: smollm2-135m-instruct
probes:
  domain: [exam.jsonl]
stages:
  - technique: sft
    data: rows.jsonl
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("rows.jsonl", "more.csv", "exam.jsonl"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    return tmp_path


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "temper.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)


def fault(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, *overrides)
    return str(caught.value)


def test_a_plain_recipe_leaves_everything_else_open(folder: Path) -> None:
    recipe = read(folder, GOOD)
    (stage,) = recipe.stages
    assert isinstance(stage, SFT)
    assert (recipe.tolerance, recipe.probes.general, recipe.seed) == (0.01, ("core",), 0)
    assert (stage.lr, stage.rank, stage.steps, stage.adapter) == (None, None, None, "auto")
    assert recipe.text == GOOD
    assert recipe.folder == folder


def test_paths_start_at_the_folder_of_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    recipe = read(
        folder, GOOD.replace("data: rows.jsonl", "data: [rows.jsonl, {file: more.csv, columns: {prompt: q}}]")
    )
    assert [source.file for source in recipe.stages[0].data] == [folder / "rows.jsonl", folder / "more.csv"]
    assert recipe.stages[0].data[1].columns == {"prompt": "q"}
    assert recipe.probes.domain[0].file == folder / "exam.jsonl"
    assert recipe.probes.domain[0].label == "exam"


def test_shares_and_numbers_are_read_in_every_spelling(folder: Path) -> None:
    more = "    replay: {share: 25%, from: {code: 1}}\n    lr: 2e-4\n    warmup: 0.05\n    steps: 1e2\n    guard: off\n"
    stage = read(folder, "tolerance: 0.5 %\n" + GOOD + more).stages[0]
    assert isinstance(stage, SFT)
    assert stage.replay is not None
    assert (stage.replay.share, stage.lr, stage.warmup, stage.steps, stage.guard) == (0.25, 2e-4, 0.05, 100, "off")
    assert read(folder, "tolerance: 0.5 %\n" + GOOD).tolerance == pytest.approx(0.005)


def test_auto_is_the_same_as_leaving_out_and_null_replay_is_none(folder: Path) -> None:
    auto = "    lr: auto\n    rank: auto\n    betas: auto\n    replay: {share: auto}\n    checkpoints: auto\n"
    assert read(folder, GOOD + auto).stages == read(folder, GOOD).stages
    assert read(folder, GOOD + "    replay: null\n").stages[0].replay is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tolerance: 150%\n" + GOOD, "temper.yaml:1: tolerance: found 150%; expected a share above 0% and at most 50%"),
        ("tolerance: 0\n" + GOOD, "temper.yaml:1: tolerance: found 0; expected"),
        ("tolerance: one\n" + GOOD, "temper.yaml:1: tolerance: found one; expected"),
        (GOOD + "    lr: 5e-2\n", "temper.yaml:7: stages.0.lr: found 5e-2; expected"),
        (GOOD + "    lr: 5e-2\n    adapter: full\n", "with adapter full"),
        (GOOD + "    lr: -1e-4\n", "stages.0.lr: found -1e-4; expected a number above 0"),
        (GOOD + "    lr: fast\n", "stages.0.lr: found fast; expected a number, or auto; write it like"),
        (GOOD + "    lr: true\n", "stages.0.lr: found true; expected a number"),
        (GOOD + "    learning_rate: 1e-4\n", "stages.0.learning_rate: found a key that nothing reads"),
        (GOOD + "    epoch: 1\n", "did you mean 'epochs'?"),
        (GOOD + "    replay: {shear: 0.25}\n", "temper.yaml:7: stages.0.replay.shear: found a key"),
        (GOOD + "    replay: {shear: 0.25}\n", "expected one of: share, from, own, local; did you mean 'share'?"),
        (GOOD + "    replay: {share: 25}\n", "stages.0.replay.share: found 25; expected a share between 0% and 100%"),
        (GOOD + "    replay: {share: 25}\n", "write 25% or 0.25"),
        (GOOD + "    replay: {from: {code: 0}}\n", "stages.0.replay.from: found {'code': 0"),
        (GOOD + "    replay: {share: 100%}\n", "stages.0.steps: found nothing; expected a number of steps"),
        (GOOD + "    schedule: liner\n", "stages.0.schedule: found liner; expected one of: 'auto', 'constant'"),
        (GOOD + "    schedule: liner\n", "did you mean 'linear'?"),
        (GOOD + "    steps: 10\n    epochs: 2\n", "stages.0.steps: found 10; expected either steps or epochs"),
        (GOOD + "    adapter: full\n    rank: 8\n", "stages.0.rank: found 8; expected nothing, full fine-tuning"),
        (GOOD + "    rank: 8.5\n", "stages.0.rank: found 8.5; expected a whole number, or auto"),
        (GOOD + "    betas: [0.9]\n", "stages.0.betas.1: found nothing"),
        (GOOD.replace("sft", "ppo"), "stages.0.technique: found ppo; expected one of: cpt, distill, dpo, rft, sft;"),
        (GOOD.replace("sft", "ppo"), "has no other technique"),
        (GOOD.replace("  - technique: sft\n    ", "  - "), "stages.0.technique: found nothing; expected one of: cpt"),
        (
            GOOD.replace("rows.jsonl", "row.jsonl"),
            "stages.0.data: found row.jsonl; expected a file that exists; did you",
        ),
        (GOOD.replace("rows.jsonl", "nothing/*.txt"), "expected a pattern that finds files; nothing matches"),
        (
            GOOD + "    filters: [length]\n",
            "stages.0.filters: found ['length']; expected at least one of: min_words, max_words, min_characters, "
            "max_characters (entry 0: found no limit); add `min_words: 5`",
        ),
        (GOOD + "    filters: [qualty]\n", "stages.0.filters: found ['qualty']; expected one of: quality"),
        (
            GOOD + "    filters: [{name: length, min_wrds: 3}]\n",
            "(entry 0.min_wrds: found a key that length does not have)",
        ),
        (GOOD.replace("[exam.jsonl]", "[{file: exam.jsonl, split: 120%}]"), "probes.domain.0.split: found 120%"),
        (GOOD + "machine: {threads: 0}\n", "machine.threads: found 0"),
        (
            GOOD.replace("rows.jsonl", "exam.jsonl"),
            "stages.0.data: found exam.jsonl; expected rows that no domain probe",
        ),
        (GOOD.replace("smollm2-135m-instruct", "./models/x"), "base: found ./models/x; expected a model folder"),
        (GOOD.replace("[exam.jsonl]", "[]"), "temper.yaml:3: probes.domain: found []; expected at least 1 of them"),
        (
            GOOD.replace("[exam.jsonl]", "[exam.jsonl, exam.jsonl]"),
            "probes.domain.1: found exam.jsonl; expected a name of",
        ),
        (GOOD.replace("base: smollm2-135m-instruct\n", ""), "base: found nothing; expected a value; add `base: smol"),
        (GOOD.replace("  domain: [exam.jsonl]", "  general: [core]"), "probes.domain: found nothing; expected a value"),
        (
            GOOD.replace("[exam.jsonl]", "[{file: exam.jsonl, metric: f1}]"),
            "probes.domain.0.metric: found f1; expected",
        ),
        ("budget: {}\n" + GOOD.replace("sft", "ppo"), "stages.0.technique: found ppo"),
        ("budget: {minutes: 0}\n" + GOOD, "budget.minutes: found 0; expected a number above 0"),
        ("budget: {hours: 1}\n" + GOOD, "expected one of: minutes, tokens, gpu_hours; "),
        ("stages: 3\nbase: x\nprobes: {domain: exam.jsonl}\n", "temper.yaml:1: stages: found 3; expected a list"),
        ("stages: [sft]\nbase: x\nprobes: {domain: exam.jsonl}\n", "stages.0: found sft; expected a mapping of keys"),
    ],
)
def test_a_fault_is_told_with_place_finding_expectation_and_remedy(folder: Path, text: str, told: str) -> None:
    assert told in fault(folder, text)


def test_all_faults_come_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = "tolerance: 150%\nsed: 3\n" + GOOD.replace("rows", "row") + "    lr: 5e-2x\n    rnak: 3\n"
    lines = fault(folder, text).splitlines()
    assert lines[0] == "temper.yaml: 5 problems"
    starts = [line.split(" found ")[0] for line in lines[1:]]
    assert starts == [
        "temper.yaml:1: tolerance:", "temper.yaml:2: sed:", "temper.yaml:8: stages.0.data:",
        "temper.yaml:9: stages.0.lr:", "temper.yaml:10: stages.0.rnak:",
    ]  # fmt: skip


def test_more_than_ten_faults_are_counted(folder: Path) -> None:
    lines = fault(folder, GOOD + "".join(f"    key{n}: 1\n" for n in range(13))).splitlines()
    assert (len(lines), lines[-1]) == (12, "and 3 more")  # headline, ten, the rest


def test_settings_of_the_command_line_are_checked_in_the_same_way(folder: Path) -> None:
    stage = read(folder, GOOD, "stages.0.lr=2e-4", "stages.0.replay.share=10%", "seed=7").stages[0]
    assert isinstance(stage, SFT)
    assert stage.lr == 2e-4
    assert stage.replay is not None
    assert stage.replay.share == 0.1
    assert fault(folder, GOOD, "stages.0.lr=5e-2").startswith("--set stages.0.lr=5e-2: stages.0.lr: found 5e-2;")
    assert "did you mean 'lr'?" in fault(folder, GOOD, "stages.0.lrr=1e-4")
    assert "expected an entry of stages, 0 to 0" in fault(folder, GOOD, "stages.1.lr=1e-4")


def test_a_missing_recipe_names_its_neighbours(folder: Path) -> None:
    read(folder, GOOD)
    with pytest.raises(RecipeError, match=r"found no such file; .*did you mean 'temper.yaml'"):
        load(folder / "tmper.yaml")
    with pytest.raises(RecipeError, match="found a folder"):
        load(folder)


@pytest.mark.parametrize(("text", "told"), [("", "an empty file"), ("# nothing\n", "an empty file"), ("[1]", "a list")])
def test_a_file_that_is_no_mapping_is_refused(folder: Path, text: str, told: str) -> None:
    assert f"found {told}; expected keys base, probes and stages" in fault(folder, text)


def test_bytes_that_are_not_text_are_refused(folder: Path) -> None:
    (folder / "temper.yaml").write_bytes(b"base: \xff\xfe\n")
    with pytest.raises(RecipeError, match="not UTF-8 at 6"):
        load(folder / "temper.yaml")


def test_a_technique_of_ones_own_is_read_by_its_own_model(folder: Path) -> None:
    own = "from temper.techniques.sft import SFT\n\nclass Mine(SFT):\n    technique: str = 'mine'\n    extra: int = 1\n"
    (folder / "mine.py").write_text(own, encoding="utf-8")
    text = GOOD.replace("technique: sft", "technique: ./mine.py:Mine") + "    extra: 5\n"
    assert read(folder, text).stages[0].model_dump()["extra"] == 5
    assert "did you mean 'extra'?" in fault(folder, text.replace("extra: 5", "exta: 5"))
    assert "no such file" in fault(folder, text.replace("mine.py", "mines.py"))
    assert "is not a technique; expected a subclass of Stage" in fault(folder, text.replace(":Mine", ":SFT.__name__"))


def test_a_model_folder_beside_the_recipe_becomes_absolute(folder: Path) -> None:
    (folder / "model").mkdir()
    assert read(folder, GOOD.replace("smollm2-135m-instruct", "model")).base == str(folder / "model")
    assert read(folder, GOOD.replace("smollm2-135m-instruct", "org/model")).base == "org/model"


def test_a_recipe_never_changes_and_prints_itself(folder: Path) -> None:
    recipe = read(folder, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    built = Recipe.model_validate(
        {
            "base": "x",
            "probes": {"domain": "exam.jsonl"},
            "stages": [{"technique": "sft", "data": "rows.jsonl", "lr": 2e-4}],
        }
    )
    assert read(folder, built.text).stages[0].model_dump(exclude={"data"}) == built.stages[0].model_dump(
        exclude={"data"}
    )
