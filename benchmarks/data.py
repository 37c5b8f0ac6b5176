"""The data path beside `datasets.map`: a JSONL file of chat rows to tokens, from nothing to ready for the first step.

`python -m benchmarks.data --gigabytes 1` measures a large file as the stage of a run has it: read, linted, tokenised,
cached, and mixed with general rows (seconds, peak memory, second start), and then the ratio to `datasets.map` on a part
of it. The peer gets the same tokenizer and chat template, batches, the better of one process
(whose tokenizer then uses all cores) and one process per core, and makes no loss mask, which temper does. Both sides
count from the file to tokens on disk; imports and the loading of the tokenizer are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT, Figure, Side, alternate, child, fastest, figure, show, values, write
from benchmarks.peers import report

PART_MB = 50
"""Size of the file that both sides read."""
TOKEN_MARGIN = 0.02
"""The tokens of both sides agree this closely: temper leaves out what the template writes after the last turn."""
EVERY_S = 0.05
"""Between two looks at the memory."""
MIXED_STEPS = 200
"""Steps of the large file that are mixed and read."""
EXAM_ROWS = 16
WHOLE = """
base: smollm2-135m-instruct
probes: {{domain: [{exam}], general: [quick]}}
stages: [{{technique: sft, data: {data}}}]
"""


@dataclass(slots=True)
class Watched:
    """What was seen of a block of code."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of this process and of those below it that ended, which a busy machine disturbs less."""
    peak_mib: float = 0.0
    """Resident memory of this process and all below it, summed, at its largest; shared pages count twice."""
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Looks at the memory until it is over."""
        import psutil

        me = psutil.Process()
        while not self._over.wait(EVERY_S):
            try:
                resident = sum(p.memory_info().rss for p in [me, *me.children(recursive=True)])
            except psutil.NoSuchProcess:
                continue
            self.peak_mib = max(self.peak_mib, resident / 2**20)


@contextmanager
def watched() -> Iterator[Watched]:
    """Measures time and memory of a block of code."""
    seen = Watched()
    thread = threading.Thread(target=seen.watch)
    thread.start()
    started, before = time.perf_counter(), os.times()
    try:
        yield seen
    finally:
        seen.seconds = time.perf_counter() - started
        seen.cpu_seconds = sum(os.times()[:4]) - sum(before[:4])
        seen._over.set()
        thread.join()


def own(file: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Tokenises a file with temper, twice: the second time reads the cache."""
    from temper import __version__
    from temper.data.datum import count_tokens
    from temper.data.render import Renderer
    from temper.data.rows import open_table
    from temper.data.tokenise import Job, tokenise

    renderer = Renderer.load(folder)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TEMPER_CACHE"] = cache
        with watched() as first:
            stored = tokenise(Job(source=open_table(file), name="rows", folder=folder), renderer, workers=processes)
        with watched() as second:
            again = tokenise(Job(source=open_table(file), name="rows", folder=folder), renderer, workers=processes)
            assert again.cached and len(again.store) == len(stored.store)
        return _result(first, file, count_tokens(stored.store), f"temper {__version__}") | {
            "second_start_seconds": second.seconds, "rows": len(stored.store), "faults": stored.store.meta.faults,
        }  # fmt: skip


def whole(file: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Everything that a run does with a file before and while it trains, but the training; twice, as a run again does.

    The memory is that of the whole process, torch included, and of its workers.
    """
    from temper import __version__
    from temper.data.fetch import cache_dir
    from temper.model.torch_backend import TorchBackend
    from temper.recipe.load import load
    from temper.run.prepare import prepare

    del folder, processes
    with tempfile.TemporaryDirectory() as scratch:
        cache, recipe, exam = Path(scratch) / "cache", Path(scratch) / "temper.yaml", Path(scratch) / "exam.jsonl"
        cache.mkdir()
        for name in ("models", "packages", "extracted", "catalog", "hashes.json"):  # what has to do with other files
            if (cache_dir() / name).exists():
                (cache / name).symlink_to(cache_dir() / name)
        rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(EXAM_ROWS)]
        exam.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe.write_text(WHOLE.format(exam=exam, data=file), encoding="utf-8")
        os.environ["TEMPER_CACHE"] = str(cache)

        def start() -> tuple[int, int, int]:
            """Rows of the file, findings of the linter, rows of the first steps."""
            prepared = prepare(load(recipe), TorchBackend(), lambda what, done, of: None)
            stage, plan = prepared.resolved.stages[0], prepared.plan(0)
            tokens = mixed = 0
            for datum in plan.rows():
                tokens, mixed = tokens + datum.supervised, mixed + 1
                if tokens >= MIXED_STEPS * stage.batch_tokens:
                    break
            return len(prepared.inventories[0].domain[0].datums), len(prepared.findings()), mixed

        with watched() as first:
            found = start()
        with watched() as second:
            assert start() == found
    return {
        "seconds": first.seconds, "peak_mib": first.peak_mib, "second_start_seconds": second.seconds,
        "second_start_peak_mib": second.peak_mib, "rows": found[0], "findings": found[1], "mixed_rows": found[2],
        "tool": f"temper {__version__}",
    }  # fmt: skip


def theirs(file: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Tokenises a file with `datasets.map`."""
    # Read when tokenizers is imported: a tokenizer uses all cores only where it is alone.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes == 1 else "false"
    import datasets  # pyright: ignore[reportMissingImports] - lives in the extra `bench`
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    with tempfile.TemporaryDirectory() as cache, watched() as seen:
        rows: Any = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        made = rows.map(
            _encoder(tokenizer), batched=True, num_proc=None if processes == 1 else processes,
            remove_columns=rows.column_names,
        )  # fmt: skip
    tokens = sum(map(len, made["input_ids"]))
    tool = f"datasets {datasets.__version__} map ({processes} process{'es' * (processes > 1)})"
    return _result(seen, file, tokens, tool) | {"rows": len(made)}


SIDES: Mapping[str, Callable[[Path, Path, int], dict[str, Any]]] = {"ours": own, "whole": whole, "peer": theirs}


def _encoder(tokenizer: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": tokenizer.apply_chat_template(batch["messages"], tokenize=True, return_dict=False)}

    return encode


def _result(seen: Watched, file: Path, tokens: int, tool: str) -> dict[str, Any]:
    return {
        "megabytes_per_second": file.stat().st_size / 1e6 / seen.seconds, "seconds": seen.seconds,
        "cpu_seconds": seen.cpu_seconds,
        "peak_mib": seen.peak_mib, "tokens": tokens, "tool": tool,
    }  # fmt: skip


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Speed and memory of both sides on the same file, taking turns."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.jsonl"
        make(file, PART_MB)

        def side(which: str, python: str, *processes: str) -> Side:
            return Side(python=python, module="benchmarks.data", arguments=[which, str(file), str(folder), *processes])

        peer_side, key = side("peer", options.peer_python), "megabytes_per_second"
        best = fastest(peer_side, [("--processes", str(n)) for n in dict.fromkeys((1, cores))], key=key)
        ours, peer = alternate(
            name, side("ours", sys.executable, "--processes", str(cores)), side("peer", options.peer_python, *best),
            rounds=options.rounds, shows=key,
        )  # fmt: skip
    a, b = ours[-1], peer[-1]
    if a["rows"] != b["rows"] or abs(a["tokens"] - b["tokens"]) > TOKEN_MARGIN * b["tokens"]:
        raise SystemExit(f"benchmarks: {name}: not the same work: {a} and {b}; nothing to compare")
    speeds, peaks = ([values(ours, key), values(peer, key)] for key in ("megabytes_per_second", "peak_mib"))
    return [
        figure(f"{name} speed", "MB/s", *speeds, better="more", peer_name=b["tool"]),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=b["tool"]),
    ]


def make(file: Path, megabytes: float) -> None:
    """The rows of `scripts/make_large_jsonl.py`."""
    import subprocess

    script = ROOT / "scripts" / "make_large_jsonl.py"
    subprocess.run([sys.executable, str(script), str(file), "--megabytes", str(megabytes)], check=True)


def large(folder: Path, gigabytes: float) -> None:
    """One large file through temper alone, told on the terminal."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "large.jsonl"
        make(file, 1000 * gigabytes)
        result = child(sys.executable, "benchmarks.data", ["whole", str(file), str(folder)])
    for key, value in result.items():
        print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")


def main() -> None:
    """Measures one side (`ours` or `peer`, for the other ways to call this), or all."""
    parser = argparse.ArgumentParser(description="The data path beside datasets.map.")
    parser.add_argument("side", nargs="?", choices=list(SIDES), help="measure one side on FILE in this process")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, help="model folder")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--gigabytes", type=float, default=0.0, help="measure a file of this size first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name, hub id or folder")
    parser.add_argument("--peer-python", default=sys.executable, help="python of an environment with datasets in it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.side:
        report(SIDES[options.side](options.file, options.folder, options.processes))
        return
    from temper.model.load import locate

    folder = locate(options.model).folder
    if options.gigabytes:
        large(folder, options.gigabytes)
    figures = measure("data", folder, options)
    show(figures)
    print(write(figures, options.out))


if __name__ == "__main__":
    main()
