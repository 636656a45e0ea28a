"""`vlsb sweep` on this machine: the matrix, its mistakes, turns, kills, judges after the cells."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from tests.commands.test_run_local import Desk as LocalDesk
from tests.support.checkpoints import checkpoint, write_tensors
from tests.support.command import Finished, Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import labelling, persona, sample_of
from tests.support.fake_engine import events
from tests.support.scripts import Script
from tests.support.sweeps import hosted_at, tables, write_local_plan, write_plan
from vlsb.cli.sweeping import SweepView
from vlsb.simulator import SimulatorThread, blocked
from vlsb.sweep.board import Board
from vlsb.sweep.cells import matrix
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing

SAMPLES = 12
VERDICT = json.dumps({"label": 3, "label_str": "Unsafe", "explanation": "It saw nothing."})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", sharing_rows(SAMPLES))


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


def test_a_sweep_again_touches_no_finished_cell_and_runs_a_row_added_later(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    vlsb("sweep", write_plan(tmp_path, target, data=data, models=["m1", "m2"]))
    files = {path: path.stat() for path in (tmp_path / "sweep").glob("m*/**/*") if path.is_file()}
    asked = len(target.completions)

    again = vlsb("sweep", write_plan(tmp_path, target, data=data, models=["m1", "m2", "m3"]))

    assert again.code == 0, again.err
    assert {path: path.stat() for path in files} == files
    assert "2 were done before." in again.err
    assert len(target.completions) - asked == asked // 2


def test_more_samples_or_epochs_than_a_finished_cell_has_are_asked_for(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    for samples, epochs in ((4, 1), (SAMPLES, 1), (SAMPLES, 2)):
        model = {**hosted_at(target, "m1"), "limit": samples}
        ended = vlsb("sweep", write_plan(tmp_path, target, data=data, models=[model], epochs=epochs))

        assert ended.code == 0, ended.err
        assert tables(vlsb, tmp_path / "sweep")["m1"]["judged"] == samples * epochs


def test_a_sweep_that_is_done_says_so_and_reads_a_run_again_only_when_a_file_of_it_is_another(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    plan = write_plan(tmp_path, target, data=data, models=["m1", "m2"])
    assert vlsb("sweep", plan).code == 0
    rows = tmp_path / "sweep" / "m1" / "responses.jsonl"
    content, times = rows.read_bytes(), rows.stat()
    asked = len(target.completions)

    rows.write_bytes(re.sub(rb"[^\n]", b"?", content))
    os.utime(rows, ns=(times.st_atime_ns, times.st_mtime_ns))
    known = vlsb("sweep", plan)
    os.utime(rows)
    damaged = vlsb("sweep", plan)
    rows.write_bytes(content)
    (tmp_path / "sweep" / ".ended.jsonl").write_bytes(b'{"key": 3}\n\xff\n[]\n')
    read_again = vlsb("sweep", plan)

    assert (known.code, damaged.code, read_again.code) == (0, 5, 0)
    for ended in (known, read_again):
        assert ended.out == ""
        assert ended.last == "All 2 were done before. See the rates with: vlsb report sweep"
    assert "responses.jsonl" in damaged.err
    assert len(target.completions) == asked


def test_what_an_entry_says_itself_holds_before_the_defaults_of_its_judges(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    """A command has one data set for target and judge."""
    other = write_dataset(tmp_path / "other", sharing_rows(3))
    models = [{**hosted_at(target, "m1"), "data-root": str(other)}, hosted_at(target, "m2")]

    ended = vlsb("sweep", write_plan(tmp_path, target, data=data, models=models))

    assert ended.code == 0, ended.err
    found = tables(vlsb, tmp_path / "sweep")
    assert [found[run]["judged"] for run in ("m1", "m2")] == [3, SAMPLES]


EDITS: dict[str, tuple[dict[str, object], str]] = {
    "model": ({"model": "m2", "name": "m1"}, 'target.model: "m1" -> "m2"'),
    "temperature": ({"temperature": 0.7}, "target.temperature: 0.0 -> 0.7"),
    "system prompt": ({"system-prompt": "Be kind."}, '-> "Be kind."'),
    "tokens": ({"max-tokens": 64}, "target.max_tokens: 128 -> 64"),
    "samples": ({"limit": 4}, "selection: 12 samples -> 4, without 8 of the old"),
}


@pytest.mark.parametrize("is_known", [True, False])
def test_a_finished_cell_with_other_settings_in_the_plan_is_refused_with_the_difference(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread, is_known: bool
) -> None:
    """As `vlsb run --resume` refuses it; with the old ones the sweep is done, and other cells go on."""
    plain = hosted_at(target, "m1")

    def swept(*models: object, words: tuple[str, ...] = ()) -> Finished:
        return vlsb("sweep", write_plan(tmp_path, target, data=data, models=models), *words)

    first, said = swept(plain), ""
    asked = len(target.completions)
    for changes, difference in EDITS.values():
        if not is_known:
            (tmp_path / "sweep" / ".ended.jsonl").unlink()
        edited = {**plain, **changes}
        refused = [swept(edited, "demo") for _ in "ab"]
        shown = swept(edited, words=("--dry-run",))

        assert [each.code for each in refused] == [6, 6], refused[0].err
        assert all(difference in each.err and "m1: started" not in each.err for each in refused)
        assert difference in " ".join(shown.out.split())
        said += refused[0].err
    old = swept(plain)

    assert (first.code, old.code) == (0, 0), first.err
    assert said.count("demo: done after") == 1
    assert old.last.startswith("All 1 were done before")
    # What the other cell asked: its samples, their labels, the first request of both.
    assert len(target.completions) <= asked + 2 * SAMPLES + 2


def test_a_finished_cell_whose_data_or_template_or_judge_is_another_is_refused(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    """A template that was edited in its place, too. The same data elsewhere is no difference."""
    template = tmp_path / "template.txt"
    template.write_text("Q: {question} A: {response}")
    judge = {"judge": "judge-model", "judge-base-url": target.base_url, "judge-api-key-env": "CANARY_KEY"}

    def swept(judges: object, root: Path = data) -> Finished:
        return vlsb("sweep", write_plan(tmp_path, target, data=root, models=["m1"], judges=[judges]))

    with_template = {**judge, "judge-template": str(template)}
    assert swept(with_template).code == 0
    asked, text = len(target.completions), template.read_text()
    template.write_text("QUESTION: {question} ANSWER: {response}")
    other_template = swept(with_template)
    template.write_text(text)
    other_judge = swept({**with_template, "judge": "another-judge"})
    rows = [{**row, "instruction": f"{row['instruction']} "} for row in sharing_rows(SAMPLES)]
    other_data = swept(with_template, write_dataset(tmp_path / "other", rows))
    shutil.copytree(data, tmp_path / "copy")
    same = swept(with_template, tmp_path / "copy")

    assert [each.code for each in (other_template, other_judge, other_data, same)] == [6, 6, 6, 0]
    assert "judge.template_sha256:" in other_template.err
    assert 'judge.model: "judge-model" -> "another-judge"' in other_judge.err
    assert "its row in data.json changed" in other_data.err
    assert same.last.startswith("All 1 were done before")
    assert len(target.completions) == asked


@pytest.mark.parametrize("is_known", [True, False])
def test_an_image_that_changed_in_its_place_is_noticed_in_every_finished_cell(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread, is_known: bool
) -> None:
    """Although the data set is looked at once for all of them."""
    plan = write_plan(tmp_path, target, data=data, models=["m1", "m2"])
    assert vlsb("sweep", plan).code == 0
    asked = len(target.completions)
    if not is_known:
        (tmp_path / "sweep" / ".ended.jsonl").unlink()
    image = next(path for path in sorted(data.rglob("*")) if path.suffix in (".png", ".jpg"))
    with image.open("ab") as file:
        file.write(b"more")

    ended = vlsb("sweep", plan)

    assert ended.code == 6, ended.err
    for cell in ("m1", "m2"):
        line = next(each for each in ended.err.splitlines() if each.startswith(f"{cell}: failed"))
        assert f"{image.name} changed" in line
    assert len(target.completions) == asked


def test_what_changes_no_answer_may_be_edited_and_variables_count_as_for_a_run(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    warm, more = {"VLSB_TEMPERATURE": "0.5"}, {"max-connections": 3, "rpm": 6000, "fail-on-error": 1}
    first = vlsb("sweep", write_plan(tmp_path, target, data=data, models=["m1"]), env=warm)
    asked = len(target.completions)
    plan = write_plan(tmp_path, target, data=data, models=[{**hosted_at(target, "m1"), **more}])

    again, without = vlsb("sweep", plan, env=warm), vlsb("sweep", plan)
    third = vlsb("sweep", plan, env=warm)

    assert [each.code for each in (first, again, without, third)] == [0, 0, 6, 0], again.err + without.err
    assert "target.temperature: 0.5 -> 0" in without.err
    assert third.last.startswith("All 1 were done before")
    assert len(target.completions) == asked


def test_a_finished_checkpoint_is_done_until_its_weights_or_its_engines_options_are_others(
    local: LocalDesk, tmp_path: Path
) -> None:
    where = checkpoint(tmp_path / "ckpt")
    judge = str(checkpoint(tmp_path / "judge"))

    def swept(**options: object) -> Finished:
        plan = write_local_plan(
            tmp_path, local.data, local.engine, models=[{"model": str(where), **options}], judges=[judge]
        )
        return local.vlsb("sweep", plan, env=local.environment(ANSWER=VERDICT))

    first = swept()
    (tmp_path / "sweep" / ".ended.jsonl").unlink()
    again, other_type = swept(), swept(dtype="float16")
    write_tensors(where / "model.safetensors", seed=3)
    other_weights = swept()

    assert [each.code for each in (first, again, other_type, other_weights)] == [0, 0, 6, 6], (
        first.err + again.err + other_type.err
    )
    assert again.last.startswith("All 2 were done before")
    assert "target.engine.dtype:" in other_type.err
    assert "target.engine.weights.digest:" in other_weights.err
    assert len(events(local.record, "start")) == 2


def test_a_cell_that_fails_ends_no_other(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    broken = {"model": "llava_hf", "weights": str(tmp_path / "nowhere")}
    plan = write_plan(tmp_path, target, data=data, models=[broken, "m2"], judges=[])

    ended = vlsb("sweep", plan)

    assert ended.code == 7, ended.err
    assert "llava_hf: failed" in ended.err
    assert "m2: done" in ended.err
    assert (tmp_path / "sweep" / "logs" / "llava_hf.log").read_text()


def test_a_cell_whose_samples_all_ended_some_without_an_answer_is_done_and_no_success(
    vlsb: Vlsb, tmp_path: Path, data: Path
) -> None:
    """It is started once, and every later sweep says of it what the first one said."""
    script = Script(labelling())
    script.by_sample(lambda r: blocked() if not r.is_judge and sample_of(r) in (3, 5) else None)
    with SimulatorThread(script) as target:
        plan = write_plan(tmp_path, target, data=data, models=["m1"], retries=3)
        first = vlsb("sweep", plan)
        asked = len(target.completions)
        again = vlsb("sweep", plan)

    shown = vlsb("sweep", plan, "--dry-run")
    allowed = vlsb(
        "sweep",
        write_plan(tmp_path, target, data=data, models=[{**hosted_at(target, "m1"), "fail-on-error": 2}]),
    )
    gaps = "2 of 12 samples have no verdict"
    assert (first.code, again.code, allowed.code) == (4, 4, 0), first.err
    assert first.err.count("m1: started") == 1
    assert f"; {gaps}" in first.err
    assert f"m1: done before; {gaps}" in again.err
    assert "vlsb show sweep/m1 --failed" in again.last
    assert len(target.completions) == asked
    assert "done, gaps" in shown.out
    assert gaps not in allowed.err


def test_a_cell_whose_log_or_run_cannot_be_used_ends_no_other(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    folder = tmp_path / "sweep"
    (folder / "logs" / "m1.log").mkdir(parents=True)
    (folder / "m2").mkdir()
    (folder / "m2" / "run.json").write_text("{")

    ended = vlsb("sweep", write_plan(tmp_path, target, data=data))

    assert ended.code == 5, ended.err
    assert "m1.log: cannot be written (Is a directory)" in ended.err
    assert "run.json is damaged" in ended.err
    assert "m3: done" in ended.err
    assert "m3" in ended.out
    assert "Error" not in ended.err


# The plan.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [gpt-4o]\nmodel: x\n", "line 2: model means nothing here. Did you mean models?"),
        ("models:\n  - model: gpt-4o\n    temprature: 1\n", "line 3: temprature means nothing here. Did you"),
        (
            "models:\n  - model: gpt-4o\n    temperature: hot\n",
            "line 3: temperature: Expected float, got str",
        ),
        ("models:\n  - model: gpt-4o\n    resume: true\n", "line 3: resume cannot be set"),
        ("models: []\n", "line 1: models: Expected array of length >= 1"),
        ("judges: [gpt-4o]\n", "Object missing required field models"),
        ("models: [gpt-4o]\nmodels: [demo]\n", "line 2: models is set twice"),
        ("models: [gpt-4o\n", "not YAML"),
        ("models:\n  - demo\n  - model: demo\n    max-tokens: 9\n", "line 3: demo would write to"),
        ("models: [demo]\njudges:\n  - nobody-knows-this\n", "line 3"),
        (
            "models: [demo]\njudges:\n  - gpt-4o\n  - judge: gpt-4o\n    judge-field: a=1\n",
            "line 4: gpt-4o is a",
        ),
        ("models: [demo]\nprotocols:\n  ../x: {}\n", "line 3: a protocol's name has letters"),
        ("models:\n  - model: demo\n    api-key-env: sk-abcdefgh12345678\n", "not the name of a variable"),
        ("models: [demo]\nepochs: 0\n", "line 2: epochs"),
        ("models: [demo]\nepochs: []\n", "line 2: epochs"),
        ("models: [demo]\ngpu-memory-gb: .inf\n", "line 2: gpu-memory-gb: inf is not a number"),
        ("models: [demo]\ngpu-memory-gb: 1.0e+300\n", "line 2: gpu-memory-gb: Expected float <="),
        ("models:\n  - model: demo\n    temperature: .nan\n", "line 3: temperature: nan is not a number"),
        ("models: [demo]\ndefaults:\n  rpm: -.inf\n", "line 3: rpm: -inf is not a number"),
        ("models: [demo]\ndefaults:\n  judge-rpm: [60, .inf]\n", "line 3: judge-rpm: inf is not a number"),
        ("models: [demo]\ndefaults:\n  judge-rpm: fast\n", "line 3: judge-rpm: Expected float"),
        ("models: [demo]\ndefaults:\n  judge-rpm: 'nan'\n", "line 3: judge-rpm: Expected float"),
        ("models: [demo]\ndefaults:\n  judge-rpm: -5\n", "line 3: judge-rpm: Expected float >= 0.1"),
        ("models: [demo]\ndefaults:\n  sample-id: [one]\n", "line 3: sample-id: Expected int"),
        ("models:\n  - demo\n  - model: demo\n    limit: few\n", "line 3: --limit 'few' is not a limit"),
        ('models:\n  - model: demo\n    name: "x\\n"\n', "line 3: name: it takes letters"),
        ('models: [demo]\nprotocols:\n  "x\\n": {}\n', "line 3: a protocol's name has letters"),
        ('models: [demo]\noutput-dir: "a\\0b"\n', "line 2: output-dir: it has a character that no file"),
        ('models: ["./a\\ud800"]\n', "line 1: models: it has a character that no file"),
        (f"models: [demo]\noutput-dir: {'x' * 300}\n", "line 2: output-dir: File name too long"),
        ("models: ['~nobody-of-that-name/x']\n", "line 1: ~nobody-of-that-name/x: there is no such home"),
        (
            f"models:\n  - {{model: demo, name: {'n' * 61}}}\nprotocols: {{{'p' * 61}: {{}}, q: {{}}}}\n",
            f"line 2: {'n' * 61}--{'p' * 61} cannot be the name of a run: it is too long",
        ),
        ("models:\n  - model: demo\n    name: logs\n", "line 2: logs cannot be the name of a run"),
    ],
)
def test_a_mistake_in_a_plan_is_said_with_its_line(vlsb: Vlsb, tmp_path: Path, text: str, said: str) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)

    ended = vlsb("sweep", plan, "--dry-run")

    assert ended.code == 2
    assert said in ended.error
    assert "sk-abcdefgh" not in ended.err


def test_no_escape_sequence_of_a_plan_reaches_the_terminal(vlsb: Vlsb, tmp_path: Path, data: Path) -> None:
    """Whatever is shown of it: places, what is left out and why, prices that it names, what went wrong."""
    escape = "\x1b]0;owned\x07\x1b[31m"
    prices = {"models": ["m1"], "input": 1, "output": 1, "source": f"ours{escape}", "as_of": "2026-01-01"}
    (tmp_path / "prices.json").write_text(json.dumps({"prices": [prices]}))
    hosted = {"model": "m1", "base-url": "https://models.example.org/v1", "api-key-env": "NO_SUCH_KEY"}
    plan = write_plan(
        tmp_path,
        None,
        data=data,
        models=[hosted],
        judges=[],
        defaults={"data-root": str(data), "prices": str(tmp_path / "prices.json")},
        **{"output-dir": str(tmp_path / f"out{escape}"), "left-out": {f"big{escape}": f"too large{escape}"}},
    )
    nothing = write_plan(
        tmp_path / "data", None, data=data, models=[f"./none{escape}/*"], judges=[], retries=0
    )

    said = [vlsb("sweep", plan, "--dry-run"), vlsb("sweep", plan), vlsb("sweep", nothing)]

    assert [each.code for each in said] == [0, 3, 2], [each.err for each in said]
    assert "too large" in said[0].out
    assert "Prices of 2026-01-01, from ours" in said[0].out
    assert all("\x1b" not in each.out + each.err and "\x07" not in each.out + each.err for each in said)


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--prepare",)])
def test_cells_that_would_write_to_one_directory_are_refused_with_both_before_anything_starts(
    vlsb: Vlsb, tmp_path: Path, words: tuple[str, ...]
) -> None:
    for training in ("a", "b"):
        checkpoint(tmp_path / training / "final")
    cases = {
        "models: ['./*/final']\n": (
            "line 1: ./b/final (./*/final) would write to",
            "as ./a/final (./*/final) of line 1 does. List them one by one",
        ),
        "models: [./a/final, ./b/final]\n": (
            "line 1: ./b/final would write to",
            "as ./a/final of line 1 does. Give one of the two a name",
        ),
        "models:\n  - ./a/final\n  - model: ./b/final\n    max-tokens: 9\n": (
            "line 3: ./b/final would write to",
            "as ./a/final of line 2 does. Give one of the two a name",
        ),
        "models:\n  - demo\n  - demo\n": ("line 3: demo would write to", "as demo of line 2 does"),
    }
    plan = tmp_path / "plan.yaml"
    for text, said in cases.items():
        plan.write_text(text)

        ended = vlsb("sweep", plan, *words)

        assert ended.code == 2
        assert all(part in ended.error.replace(f"{tmp_path}/", "./") for part in said), ended.error
        assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--prepare",)])
def test_a_pattern_that_matches_no_whole_checkpoint_is_a_mistake_with_what_is_missing(
    local: LocalDesk, tmp_path: Path, words: tuple[str, ...]
) -> None:
    plan = write_plan(tmp_path, None, data=local.data, models=["./ckpt/step-*", "demo"], judges=[])

    nothing = local.vlsb("sweep", plan, *words)
    (checkpoint(tmp_path / "ckpt" / "step-1") / "model.safetensors").unlink()
    (tmp_path / "ckpt" / "step-2").mkdir()
    half = local.vlsb("sweep", plan, *words)
    shutil.rmtree(tmp_path / "ckpt")
    checkpoint(tmp_path / "ckpt" / "step-1")
    cut = checkpoint(tmp_path / "ckpt" / "step-2") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    some = local.vlsb("sweep", plan, "--dry-run")

    assert (nothing.code, half.code, some.code) == (2, 2, 0)
    assert "line 3: ./ckpt/step-* matches no folder. --watch waits" in nothing.error
    assert "./ckpt/step-* matches no whole checkpoint: step-" in half.error
    assert "and 1 more like it" in half.error
    assert "step-2 is left out, as it is not a whole checkpoint" in some.err
    assert "step-1" in some.out
    assert not (tmp_path / "sweep").exists()


def test_the_schema_knows_every_key_that_a_plan_may_have(vlsb: Vlsb) -> None:
    schema = json.loads(vlsb("sweep", "--schema").out)

    parts = schema["$defs"]
    assert {"models", "judges", "protocols", "epochs", "defaults", "output-dir"} <= set(
        parts["Plan"]["properties"]
    )
    assert {"model", "num-gpus", "max-tokens", "data-root"} <= set(parts["Model"]["properties"])
    assert not parts["Model"]["additionalProperties"]


def test_the_papers_plan_is_shown_with_what_it_leaves_out(vlsb: Vlsb) -> None:
    shown = vlsb("sweep", "paper-table3", "--dry-run", "--offline")

    assert shown.code == 0, shown.err
    assert "7 cells" in shown.out
    assert "Qwen2-VL-72B" in shown.out
    assert not (vlsb.directory / "outputs").exists()


def row_of(shown: str, cell: str) -> list[str]:
    """The figures of a cell in the table of `--dry-run`."""
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{cell} ")]
    return line.removeprefix(cell).split()


def test_a_dry_run_of_a_new_plan_says_what_is_left_and_what_it_assumes(
    vlsb: Vlsb, tmp_path: Path, data: Path
) -> None:
    strange = {"model": "m1", "base-url": "https://models.example.org/v1", "api-key-env": "CANARY_KEY"}
    plan = write_plan(tmp_path, None, data=data, models=["gpt-4o", strange], judges=["gpt-4o"], epochs=2)

    shown = vlsb("sweep", plan, "--dry-run")

    assert shown.code == 0, shown.err
    # 24 responses and as many labels, of 1,200 tokens in for $2.50 a million and 128 out for $10.
    assert row_of(shown.out, "gpt-4o") == ["24", "48", "~$0.21", "waiting"]
    assert row_of(shown.out, "m1") == ["24", "48", "unknown", "waiting"]
    assert "if a request takes 1,200 tokens in and 128 out" in " ".join(shown.out.split())
    assert "unknown for 1 model of these cells" in " ".join(shown.out.split())
    assert "Prices of 2026-03-01, from https://" in shown.out
    assert "Times are unknown" in shown.out


def test_a_dry_run_forecasts_the_rest_from_what_was_answered(
    vlsb: Vlsb, tmp_path: Path, data: Path, target: SimulatorThread
) -> None:
    """By its own tokens for a cell that has begun, by the judge's in other cells for one that has not."""
    judge = {"judge": "gpt-4o", "judge-base-url": target.base_url, "judge-api-key-env": "CANARY_KEY"}
    begun = {**hosted_at(target, "gpt-4o"), "limit": 6}
    done = {**hosted_at(target, "gpt-4o"), "name": "done"}
    first = vlsb("sweep", write_plan(tmp_path, target, data=data, models=[begun, done], judges=[judge]))
    assert first.code == 0, first.err
    for run in ("gpt-4o", "done"):
        # As if the provider had been asked: what is here costs nothing.
        manifest = tmp_path / "sweep" / run / "run.json"
        manifest.write_text(
            manifest.read_text().replace('"http://loopback/v1"', '"https://api.openai.com/v1"')
        )
    models = ["gpt-4o", {"model": "gpt-4o", "name": "done"}, {"model": "demo", "name": "new"}]

    plan = write_plan(tmp_path, None, data=data, models=models, judges=["gpt-4o"])
    shown = vlsb("sweep", plan, "--dry-run")

    run = tmp_path / "sweep" / "gpt-4o"
    of_target, of_judge = (
        fmean(
            (2.5 * each["input_tokens"] + 10 * each["output_tokens"]) / 1e6
            for line in path.read_text().splitlines()
            for each in [json.loads(line)["usage"]]
        )
        for path in (run / "responses.jsonl", *(run / "verdicts").glob("*.jsonl"))
    )
    left, requests, cost, spent, _, state = row_of(shown.out, "gpt-4o")
    assert (left, requests, state) == ("6", "12", "waiting")
    assert float(cost[1:]) == pytest.approx(6 * (of_target + of_judge), abs=1e-4)
    assert spent == "0:01"
    assert row_of(shown.out, "done (gpt-4o)") == ["0", "done"]
    assert float(row_of(shown.out, "new (demo)")[2][1:]) == pytest.approx(12 * of_judge, abs=1e-4)
    assert "by what was answered so far" in " ".join(shown.out.split())


# Engines.


def test_a_pattern_takes_checkpoints_in_the_order_of_their_numbers(local: LocalDesk, tmp_path: Path) -> None:
    for step in (1000, 200, 30):
        checkpoint(tmp_path / "ckpt" / f"step-{step}")
    plan = write_plan(tmp_path, None, data=local.data, models=["./ckpt/step-*"], judges=[])

    shown = local.vlsb("sweep", plan, "--dry-run")

    places = [shown.out.index(f"step-{step}") for step in (30, 200, 1000)]
    assert places == sorted(places)


def test_a_table_counts_the_cells_that_it_shows_and_each_again_when_it_has_ended(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(60)]
    with SimulatorThread(persona) as target:
        plan = load_plan(str(write_plan(tmp_path, target, data=tmp_path, models=names)))
    board = Board()
    board.add(matrix(plan, Sizing()).works)
    view, last = SweepView(board), board.entries[-1]

    assert [work.name for work in view.uncounted(24)] == names[:19]
    assert list(view.uncounted(24)) == []
    board.start(last, "", None)
    for _ in range(2):
        assert list(view.uncounted(24)) == [last.work]
    asyncio.run(board.end(last, 1, retries=0))
    assert list(view.uncounted(24)) == [last.work]
    assert list(view.uncounted(24)) == []
