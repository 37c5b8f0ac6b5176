"""Tasks of lm-eval on a tiny random model, against lm-eval's own runner and model on the same rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from temper.data.render import Renderer
from temper.errors import DataError, MissingExtra
from temper.model.protocol import BASE, Checkpoint, Policy
from temper.model.torch_backend import TorchBackend
from temper.probes.base import ProbeSpec, Where, take
from temper.probes.choice import choice
from temper.probes.suites import load_items, load_suite, prepare, run_suite
from tests.tiny import tiny_model

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed (extra lm-eval)")
# What lm-eval and the packages below it warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = 24
TASKS = {
    "small_choice": """output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "small_last": """output_type: loglikelihood
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: " {{choices[0]}}"
metric_list:
  - metric: perplexity
  - metric: acc
""",
    "small_text": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list:
  - metric: bits_per_byte
""",
    "small_reply": """output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs:
  until: ["zzz"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
""",
}


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and four tasks over the same local rows."""
    folder = tmp_path_factory.mktemp("tasks")
    tiny_model(folder / "model")
    words = ("yes no", "the brown fox", "Paris", "a light that jumps over the dog", "assistant", "12 times")
    rows = [
        {"question": f"What is {n} over the {words[n % 5]}?", "choices": [words[(n + i) % 6] for i in range(4)],
         "gold": n * 7 % 4}
        for n in range(ROWS)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    head = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/rows.jsonl\ntest_split: test\n"
    (folder / "tasks").mkdir()
    for name, text in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(f"task: {name}\n{head}{text}", encoding="utf-8")
    return folder


@pytest.fixture(name="policy", scope="module")
def _policy(world: Path) -> Policy:
    folder = world / "model"
    return TorchBackend().open(Checkpoint(id=BASE, path=folder, base=folder))


@pytest.fixture(name="theirs", scope="module")
def _theirs(world: Path) -> Any:
    """What lm-eval's own runner finds with its own model class, per task."""
    import lm_eval.tasks
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(world / "model"), device="cpu", batch_size=1, dtype="float32")
    manager = lm_eval.tasks.TaskManager(include_path=str(world / "tasks"), include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)


def spec_of(world: Path, task: str) -> ProbeSpec:
    suite = world / f"{task}.toml"
    suite.write_text(f'[[probe]]\nname = "{task}"\nkind = "lm-eval"\ntask = "{task}"\nfolder = "tasks"\n')
    (spec,) = load_suite(suite)
    return spec


def ask(world: Path, policy: Policy, task: str) -> Any:
    """Both halves of the task, as one list of outcomes by row."""
    renderer = Renderer.load(world / "model")
    (probe,) = prepare(policy, renderer, [spec_of(world, task)], cache=None)
    from temper.probes.kinds import kind

    return probe.spec, {o.id: o for o in kind(probe.spec.kind).score(policy, renderer, probe.spec, probe.items)}


def samples(theirs: Any, task: str) -> dict[str, Any]:
    return {str(s["doc_id"]): s for s in theirs["samples"][task]}


@pytest.mark.slow
@needs_lm_eval
def test_multiple_choice_has_the_marks_of_lm_evals_own_model_row_by_row(world: Path, policy: Policy, theirs: Any):
    spec, found = ask(world, policy, "small_choice")
    assert (spec.kind, spec.axis, len(found)) == ("lm-eval-choice", "knowledge", ROWS)
    for row, sample in samples(theirs, "small_choice").items():
        assert (found[row].parts["acc"], found[row].parts["acc_norm"]) == (sample["acc"], sample["acc_norm"])
        assert found[row].hard == sample["acc_norm"]
    assert 0 < sum(o.hard for o in found.values()) < ROWS, "rows that are all right or all wrong compare nothing"


@needs_lm_eval
def test_the_built_in_choice_probe_agrees_with_lm_evals_acc_norm_on_the_same_items(
    world: Path, policy: Policy, theirs: Any
):
    rows = [json.loads(line) for line in (world / "rows.jsonl").read_text().splitlines()]
    items = [
        {"id": str(n), "context": f"Question: {r['question']}\nAnswer:", "options": [f" {c}" for c in r["choices"]],
         "gold": r["gold"]}
        for n, r in enumerate(rows)
    ]  # fmt: skip
    spec = ProbeSpec(name="c", axis="knowledge", kind="choice", source="c")
    ours = choice(policy, Renderer.load(world / "model"), spec, items)
    assert [o.hard for o in ours] == [samples(theirs, "small_choice")[o.id]["acc_norm"] for o in ours]
    _, adapted = ask(world, policy, "small_choice")
    assert [o.value for o in ours] == pytest.approx([adapted[o.id].value for o in ours], rel=1e-4)


@needs_lm_eval
def test_log_likelihoods_are_those_of_lm_evals_own_model(world: Path, policy: Policy, theirs: Any):
    import math

    _, found = ask(world, policy, "small_last")
    for row, sample in samples(theirs, "small_last").items():
        total, greedy = sample["filtered_resps"][0]
        assert found[row].value == pytest.approx(-total / math.log(2), rel=1e-4)
        assert found[row].hard == float(greedy)
    spec, texts = ask(world, policy, "small_text")
    assert spec.kind == "lm-eval-loss"
    bits, size = sum(o.value for o in texts.values()), sum(o.size for o in texts.values())
    assert bits / size == pytest.approx(theirs["results"]["small_text"]["bits_per_byte,none"], rel=1e-4)


@needs_lm_eval
def test_generated_replies_are_those_of_lm_evals_own_model(world: Path, policy: Policy, theirs: Any):
    spec, found = ask(world, policy, "small_reply")
    assert spec.kind == "lm-eval-generate"
    for row, sample in samples(theirs, "small_reply").items():
        assert found[row].reply == sample["resps"][0][0]
        assert found[row].value == sample["exact_match"]


@needs_lm_eval
def test_a_task_runs_in_a_suite_by_halves_and_from_the_cache(world: Path, policy: Policy, tmp_path: Path):
    renderer = Renderer.load(world / "model")
    (probe,) = prepare(policy, renderer, [spec_of(world, "small_choice")], cache=None)
    where = Where(checkpoint=BASE)
    runs = [run_suite(policy, renderer, [probe], split="test", where=where, cache=tmp_path) for _ in range(2)]
    first, again = (found[0].measurement for found in runs)
    assert first.ids == tuple(i["id"] for i in take(probe.items, "test", 0))
    assert (first.items, first.chance, again.seconds) == (again.items, 0.25, 0.0)


@needs_lm_eval
def test_a_few_shot_setting_changes_what_is_asked(world: Path):
    none, some = (
        load_items(ProbeSpec(name="t", axis="knowledge", kind="lm-eval", source="t",
                             options={"task": "small_choice", "folder": str(world / "tasks"), "shots": shots}))
        for shots in (0, 2)
    )  # fmt: skip
    assert none[0]["prompt"].count("Answer:") == 1
    assert some[0]["prompt"].count("Answer:") == 3


@needs_lm_eval
def test_an_unknown_task_is_named(world: Path):
    spec = ProbeSpec(name="mine", axis="knowledge", kind="lm-eval", source="t",
                     options={"task": "small_chioce", "folder": str(world / "tasks")})  # fmt: skip
    with pytest.raises(DataError, match=r"probe mine: task 'small_chioce' is not a single task"):
        load_items(spec)


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_the_extra_the_message_says_how_to_install_it():
    (spec,) = load_suite("lm-eval:arc_easy")
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[lm-eval\]'"):
        load_items(spec)


def test_a_task_can_be_named_like_a_suite():
    (spec,) = load_suite("lm-eval:arc_easy")
    assert (spec.name, spec.kind, dict(spec.options)) == ("arc_easy", "lm-eval", {"task": "arc_easy"})
