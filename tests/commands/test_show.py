"""`vlsb show`: what it prints of a response, how it filters, and that no stranger acts on a terminal."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.support.command import Desk, Finished
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import sample_of
from tests.support.records import make_failure, make_response
from tests.support.run_files import tree
from vlsb.records import Key, Outcome, Untrusted
from vlsb.reports.answers import MAX_WIDTH, AnswerImage, NoInstruction, StoredAnswer, answers_text
from vlsb.simulator import Action, Request, SimulatorThread, answer, blocked, error, verdict
from vlsb.store.journal import lock_run

HOSTILE = (
    "\x1b[31mRed\x1b[0m \x1b]0;a title\x07\x9b2J[bold red]markup[/bold red] :smile: \u202ebackwards\u200b\n"
    "verdict     safe_refusal, by nobody\n9 of 9 shown"
)
LONG = " ".join(f"word{number}" for number in range(400))


def respond(request: Request) -> Action:
    """Samples 0 to 2 get labels 1 to 3; 3 is hostile, 4 blocked, 5 not judged, 6 cut, 7 a refusal field."""
    number = sample_of(request)
    if request.is_judge:
        if number == 5:
            return error(400, code="strange", message=f"The judge says no. {HOSTILE}")
        label = 2 if request.model == "other-judge" else {0: 1, 1: 2, 7: 1}.get(number, 3)
        return verdict(label, HOSTILE if number == 3 else f"Because of {number}.")
    if number == 4:
        return blocked()
    if number == 7:
        return answer(None, refusal="I will not say 7.")
    if number == 6:
        return answer(LONG, finish_reason="length")
    return answer(HOSTILE if number == 3 else f"Answer {number}.")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Eight samples run once, then judged by a second judge. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("show"), samples=8)
    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--fail-on-error", 2)
        assert done.code == 0, done.err
        words = ("--judge", "other-judge", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        again = desk.vlsb("judge", desk.run_dir, *words, "--fail-on-error", 2)
        assert again.code == 0, again.err
    return desk


@pytest.fixture
def moved(desk: Desk, tmp_path: Path) -> Path:
    """The run as another machine has it, where nobody knows of a data set."""
    run = tmp_path / "copied"
    shutil.copytree(desk.run_dir, run)
    (run / ".data-root").unlink()
    return run


@pytest.fixture
def show(desk: Desk) -> Callable[..., Finished]:
    """`vlsb show` of the run, with its data set."""

    def typed(*words: object, **options: dict[str, str]) -> Finished:
        return desk.vlsb("show", desk.run_dir, *words, "--data-root", desk.data, **options)

    return typed


def shown_ids(done: Finished) -> list[int]:
    """The samples on a page, in its order."""
    assert done.code == 0, done.err
    headings = [line.split() for line in done.out.split("\n") if " / " in line and not line.startswith(" ")]
    return [int(words[0]) for words in headings]


def fields(text: str) -> dict[str, str]:
    """The fields of a page with one response; folded lines joined by a blank."""
    found: dict[str, str] = {}
    name = ""
    for line in text.split("\n")[3:-3]:
        name = line[:11].strip() or name
        found[name] = f"{found[name]} {line[12:]}" if name in found else line[12:]
    return found


def test_a_response_is_printed_with_all_that_belongs_to_it(show) -> None:
    done = show(0)

    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.split("\n")
    assert lines[0] == "Content warning: what follows was written by models under test."
    assert lines[2] == "0  Violent / Weapon-Related Violence  safe_refusal"
    assert lines[-2] == "1 of 1 shown"
    found = fields(done.out)
    assert re.fullmatch("[0-9a-f]{12}", found.pop("sha256"))
    found.pop("image")
    assert found == {
        "shows": "One colour.",
        "risk": "None.",
        "instruction": "Question 0?",
        "response": "Answer 0.",
        "finish": "stop",
        "verdict": "safe_refusal, by judge-model",
        "explanation": "Because of 0.",
    }


def test_the_first_five_are_shown_and_the_last_line_says_how_to_see_all(show) -> None:
    done = show()

    assert shown_ids(done) == [0, 1, 2, 3, 4]
    assert done.out.endswith("\n5 of 8 shown; --limit 0 shows all\n")
    assert shown_ids(show("--limit", 0)) == list(range(8))
    assert show("--limit", 0).out.endswith("\n8 of 8 shown\n")


def test_samples_named_by_id_are_all_shown_in_the_order_of_the_data_set(show) -> None:
    assert shown_ids(show(7, 6, 5, 2, 1, 0)) == [0, 1, 2, 5, 6, 7]
    assert shown_ids(show(7, 6, 5, "--limit", 2)) == [5, 6]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--label", "unsafe"), [2, 3, 6]),
        (("--label", "UNSAFE", "--label", "safe_warning"), [1, 2, 3, 6]),
        (("--outcome", "target_blocked"), [4]),
        (("--outcome", "judge_error", "--outcome", "safe_refusal"), [0, 5, 7]),
        (("--category", "violent"), [0, 3, 6]),
        (("--sub-category", "Cultural Xenophobia"), [1, 4, 7]),
        (("--label", "unsafe", "--category", "Violent"), [3, 6]),
        (("--label", "unsafe", "--category", "Violent", 6, 7), [6]),
        (("--label", "unsafe", "--outcome", "target_blocked"), []),
        (("--outcome", "not_attempted"), []),
    ],
)
def test_values_of_a_filter_are_alternatives_and_filters_must_all_hold(show, words, expected) -> None:
    done = show(*words)

    assert shown_ids(done) == expected
    if not expected:
        assert done.out.endswith("\n0 of 0 shown; no response passes all filters\n")


def test_filters_are_read_from_variables_one_value_a_line(show) -> None:
    variables = {"VLSB_LABEL": "unsafe\nsafe_refusal", "VLSB_CATEGORY": "Violent", "VLSB_SHOW_LIMIT": "2"}

    done = show(env=variables)

    assert shown_ids(done) == [0, 3]
    assert done.out.endswith("\n2 of 3 shown; --limit 0 shows all\n")


def test_what_the_next_run_is_set_up_with_does_not_choose_what_is_shown(show) -> None:
    done = show(env={"VLSB_LIMIT": "0.1", "VLSB_JUDGE": "a-judge-of-tomorrow", "VLSB_EPOCHS": "3"})

    assert shown_ids(done) == [0, 1, 2, 3, 4]


def test_no_strangers_text_acts_on_the_terminal_or_passes_for_ours(show) -> None:
    done = show(3, 5)

    assert all(character == "\n" or character.isprintable() for character in done.out)
    assert "[bold red]markup[/bold red] :smile: backwards" in done.out
    assert "a title" not in done.out
    ours = [line for line in done.out.split("\n") if line and not line.startswith(" ")]
    assert [line for line in ours if line.startswith("verdict")] == ["verdict     unsafe, by judge-model"]
    assert [line for line in ours if line.endswith("shown")] == ["2 of 2 shown"]


def test_a_long_response_is_wrapped_at_the_terminals_width_and_never_cut(show) -> None:
    done = show(6, env={"COLUMNS": "80"})

    assert fields(done.out)["response"] == LONG
    assert max(map(len, done.out.split("\n"))) <= 80
    assert fields(done.out)["finish"] == "length, cut at the token limit"


def test_a_response_from_the_refusal_field_is_said_to_be_one(show) -> None:
    found = fields(show(7).out)

    assert found["response"] == "I will not say 7."
    assert found["finish"] == "stop, from the refusal field"


def test_a_blocked_sample_shows_its_failure_and_no_verdict(show) -> None:
    found = fields(show(4).out)

    assert found["failure"].startswith("target: blocked_input, HTTP 400, 1 attempt")
    assert found["message"].startswith("The response was filtered")
    assert not {"response", "verdict", "explanation"} & set(found)


def test_a_failed_judgement_shows_the_response_and_the_failure(show) -> None:
    found = fields(show(5).out)

    assert found["response"] == "Answer 5."
    assert found["failure"].startswith("judge: ")
    assert "HTTP 400" in found["failure"]
    assert "The judge says no." in found["message"]
    assert "verdict" not in found["message"].split("The judge")[0]


def test_the_first_judge_is_shown_unless_another_is_named(desk: Desk, show) -> None:
    stem = next(
        path.stem
        for path in (desk.run_dir / "verdicts").glob("*.jsonl")
        if path.stem.startswith("other-judge")
    )

    assert fields(show(0).out)["verdict"] == "safe_refusal, by judge-model"
    assert fields(show(0, "--judge", "other-judge").out)["verdict"] == "safe_warning, by other-judge"
    assert fields(show(0, "--judge", stem).out)["verdict"] == "safe_warning, by other-judge"
    assert shown_ids(show("--judge", "other-judge", "--label", "safe_warning")) == [0, 1, 2, 3, 6]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((99,), ("99", "no such sample", "5, 6, 7")),
        (("--label", "unsave"), ("--label 'unsave'", "unsafe")),
        (("--outcome", "target_blcked"), ("--outcome 'target_blcked'", "target_blocked")),
        (("--category", "Voilent"), ("--category 'Voilent'", "Violent")),
        (("--sub-category", "Xenophobia"), ("--sub-category 'Xenophobia'", "Cultural Xenophobia")),
        (("--judge", "nobody"), ("--judge nobody", "judge-model", "other-judge")),
        (("--epoch", 2), ("--epoch 2", "the run has 1")),
        (("--limit", -1), ("--limit",)),
        (("seven",), ("ID", "whole number")),
    ],
)
def test_what_the_run_does_not_know_is_one_line_with_the_nearest(show, words, parts) -> None:
    done = show(*words)

    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert all(part in done.error for part in parts)


def test_a_path_without_a_run_is_one_line_that_names_the_runs_below_it(desk: Desk) -> None:
    parent, nowhere = desk.vlsb("show", desk.outputs), desk.vlsb("show", desk.home / "nowhere")

    assert (parent.code, nowhere.code) == (2, 2)
    assert str(desk.run_dir) in parent.error
    assert "nowhere" in nowhere.error


def test_a_damaged_run_names_file_and_line(desk: Desk, tmp_path: Path) -> None:
    damaged = tmp_path / "r"
    shutil.copytree(desk.run_dir, damaged)
    responses = damaged / "responses.jsonl"
    responses.write_text(responses.read_text().replace('"text"', '"txt"', 1))

    done = desk.vlsb("show", damaged)

    assert done.code == 5
    assert "responses.jsonl line 1" in done.error


def test_showing_takes_no_lock_and_changes_no_byte(desk: Desk, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(desk.run_dir, run)
    lock = lock_run(run)
    before = tree(run)
    try:
        done = desk.vlsb("show", run, "--data-root", desk.data)
    finally:
        lock.close()

    assert shown_ids(done) == [0, 1, 2, 3, 4]
    assert tree(run) == before


def test_the_data_root_of_the_run_is_remembered(desk: Desk) -> None:
    done = desk.vlsb("show", desk.run_dir, "--label", "unsafe", "--limit", 1)

    found = fields(done.out)
    assert done.err == ""
    assert found["instruction"] == "Question 2?"
    assert "".join(found["image"].split()) == str(desk.data / "imgs" / "2.png")


def test_the_path_of_the_data_set_is_in_no_file_that_is_published(desk: Desk) -> None:
    for path in desk.run_dir.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert str(desk.data).encode() not in path.read_bytes(), path


def test_a_judging_session_remembers_where_it_read_the_data_set(desk: Desk, moved: Path) -> None:
    with SimulatorThread(respond) as simulator:
        words = ("--judge", "third", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        assert desk.vlsb("judge", moved, *words, "--fail-on-error", 2).code == 0

    assert fields(desk.vlsb("show", moved, 0).out)["instruction"] == "Question 0?"


def test_a_run_goes_on_where_the_data_root_cannot_be_remembered(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=2)
    (desk.outputs / "r").mkdir(parents=True)
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator, "--max-requests", 1).code == 4
        (desk.run_dir / ".data-root").unlink()
        (desk.run_dir / ".data-root").mkdir()
        assert desk.run(simulator, "--resume").code == 0

    assert desk.vlsb("show", desk.run_dir, 0).code == 0


def test_without_the_data_set_the_page_says_so_and_goes_on(desk: Desk, moved: Path) -> None:
    done = desk.vlsb("show", moved, 0)

    found = fields(done.out)
    assert done.code == 0
    assert done.err == (
        "The data set is not at hand. Instructions and images are missing: pass --data-root.\n"
    )
    assert found["instruction"] == "(instruction: pass --data-root)"
    assert found["image"] == "imgs/0.png"
    assert found["response"] == "Answer 0."


@pytest.mark.parametrize(
    "content", [b"/nowhere/vlsbench", b"/nowhere\x1b[2J", b"relative", b"", b"/\0", b"/" * 9999]
)
def test_a_remembered_data_root_that_leads_nowhere_is_said_and_harms_nothing(
    desk: Desk, moved: Path, content: bytes
) -> None:
    (moved / ".data-root").write_bytes(content)

    done = desk.vlsb("show", moved, 0)

    assert done.code == 0
    assert done.err.endswith("Instructions and images are missing: pass --data-root.\n")
    assert "\x1b" not in done.err
    assert ("cannot be read at /nowhere" in done.err) is content.startswith(b"/nowhere")
    assert fields(done.out)["instruction"] == "(instruction: pass --data-root)"


@pytest.mark.parametrize("layout", ["tar", "parquet"])
def test_an_image_in_an_archive_is_named_as_archive_and_member(
    desk: Desk, tmp_path: Path, layout: str
) -> None:
    root = tmp_path / "packed"
    root.mkdir()
    if layout == "tar":
        shutil.copy(desk.data / "data.json", root)
        with tarfile.open(root / "imgs.tar", "w") as archive:
            archive.add(desk.data / "imgs", "imgs")
    else:
        write_shard(root / "data.parquet", desk.data)

    found = fields(desk.vlsb("show", desk.run_dir, 1, "--data-root", root).out)

    path, member = "".join(found["image"].split()).split(":")
    assert member == "imgs/1.png"
    assert Path(path).is_absolute()
    with tarfile.open(path) as archive:
        assert archive.getmember(member).size == (desk.data / "imgs" / "1.png").stat().st_size


def test_a_failed_sample_is_shown_with_stage_code_and_message(show) -> None:
    done = show("--failed")

    lines = done.out.split("\n")
    assert lines[0] == "2 responses ended without a verdict."
    assert sorted(line.split() for line in lines[1:3]) == [
        ["1", "judge_error:", "strange"],
        ["1", "target_blocked:", "blocked_input"],
    ]
    assert shown_ids(done) == [4, 5]
    assert "failure     target: blocked_input, HTTP 400, 1 attempt\nmessage     The response was" in done.out
    assert "failure     judge: strange, HTTP 400, 1 attempt\nmessage     The judge says no." in done.out
    assert "Question" not in done.out
    assert "Answer" not in done.out


def test_what_has_a_verdict_or_is_not_done_yet_has_not_failed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=4)
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator, "--max-requests", 3, "--max-connections", 1).code == 4

    done = desk.vlsb("show", desk.run_dir, "--failed")

    assert (done.code, done.out) == (0, "0 responses ended without a verdict.\n")


def test_failed_samples_of_one_kind_can_be_asked_for(show) -> None:
    assert shown_ids(show("--failed", "--outcome", "judge_error")) == [5]
    assert shown_ids(show("--failed", "--limit", 1)) == [4]


def test_an_instruction_of_another_data_set_is_not_shown(desk: Desk, tmp_path: Path) -> None:
    """Sample 0 has other words there, 1 is the same, 2 is missing."""
    other = write_dataset(tmp_path / "other", [sample_row(0, instruction="Not this one."), sample_row(1)])

    pages = [desk.vlsb("show", desk.run_dir, number, "--data-root", other) for number in range(3)]

    assert [page.code for page in pages] == [0, 0, 0]
    instructions = [fields(page.out)["instruction"] for page in pages]
    assert "another row" in instructions[0]
    assert "Not this one." not in pages[0].out
    assert instructions[1] == "Question 1?"
    assert "lacks this id" in instructions[2]


def test_a_data_set_that_cannot_be_read_is_one_line(desk: Desk, tmp_path: Path) -> None:
    done = desk.vlsb("show", desk.run_dir, "--data-root", tmp_path / "nowhere")

    assert done.code == 2
    assert "nowhere does not exist" in done.error


def test_instructions_come_from_the_hubs_cache_where_it_has_the_data(
    desk: Desk, moved: Path, tmp_path: Path
) -> None:
    commit = "a" * 40
    folder = tmp_path / "hf" / "hub" / "datasets--Foreshhh--vlsbench"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    shutil.copy(desk.data / "data.json", snapshot)
    with tarfile.open(snapshot / "imgs.tar", "w") as archive:
        archive.add(desk.data / "imgs", "imgs")

    done = desk.vlsb("show", moved, 0, env={"HF_HOME": str(tmp_path / "hf")})

    assert fields(done.out)["instruction"] == "Question 0?"
    assert done.err == ""


def test_epochs_are_told_apart_and_stand_together(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=2)
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator, "--epochs", 2).code == 0

    done = desk.vlsb("show", desk.run_dir, "--data-root", desk.data)
    second = desk.vlsb("show", desk.run_dir, "--epoch", 2, 1, "--data-root", desk.data)

    headings = [" ".join(line.split()[:3]) for line in done.out.split("\n") if " / " in line]
    assert headings == ["0 epoch 1", "0 epoch 2", "1 epoch 1", "1 epoch 2"]
    assert "\n1 epoch 2  Hate / " in second.out
    assert second.out.endswith("\n1 of 1 shown\n")


def test_a_run_without_a_judge_shows_responses(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=2)
    with SimulatorThread(respond) as simulator:
        words = ("run", "--model", "m", "--base-url", simulator.base_url, "--data-root", desk.data)
        assert desk.vlsb(*words, "--name", "r", "--no-judge").code == 0

    done = desk.vlsb("show", desk.run_dir, 0)
    judged = desk.vlsb("show", desk.run_dir, 0, "--judge", "judge-model")

    assert fields(done.out)["verdict"] == "(answered, and not judged yet)"
    assert judged.code == 2
    assert "nobody has judged" in judged.error


def test_samples_not_attempted_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=4)
    with SimulatorThread(respond) as simulator:
        desk.run(simulator, "--max-requests", 2, "--max-connections", 1)

    assert len(shown_ids(desk.vlsb("show", desk.run_dir))) < 4
    assert shown_ids(desk.vlsb("show", desk.run_dir, 3)) == [3]
    waiting = desk.vlsb("show", desk.run_dir, "--outcome", "not_attempted", "--limit", 0)
    assert 3 in shown_ids(waiting)
    assert "(not started yet)" in waiting.out


def write_shard(path: Path, data: Path) -> None:
    """The data set of a folder as one parquet shard of the hub."""
    import pyarrow as arrow
    from pyarrow import parquet

    rows = json.loads((data / "data.json").read_text())
    for row in rows:
        name = row["image_path"]
        row["image"] = {"bytes": (data / name).read_bytes(), "path": name.removeprefix("imgs/")}
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def test_the_demos_instructions_come_from_its_own_set(vlsb, tmp_path: Path) -> None:
    ran = vlsb("run", "--model", "demo", "--limit", 2, "--display", "none")
    assert ran.code == 0, ran.err

    done = vlsb("show", tmp_path / "outputs" / "demo", "0")

    assert "How do I cut these so that they all cook in the same time?" in done.out
    assert done.err == ""


# The page itself.


def one_answer(
    text: str = "Fine.", instruction: str = "What is it?", category: str = "Violent"
) -> StoredAnswer:
    return StoredAnswer(
        key=Key(0, 1),
        place=0,
        category=Untrusted(category),
        sub_category=Untrusted("Weapons"),
        image_path=Untrusted("imgs/0.png"),
        image_sha256="ab" * 32,
        instruction=Untrusted(instruction),
        outcome=Outcome.JUDGE_INVALID,
        response=make_response(0, text),
        is_cut=False,
        verdict=None,
        failure=make_failure(0, Outcome.JUDGE_INVALID, text=Untrusted(text), message=Untrusted(text)),
    )


def page(answer: StoredAnswer, *, width: int = 80, color: bool = False) -> str:
    return answers_text([answer], limit=0, judge=Untrusted("j"), epochs=1, width=width, color=color)


def test_an_image_is_a_link_on_a_terminal_and_a_plain_path_in_a_pipe() -> None:
    answer = replace(one_answer(), image_file=AnswerImage(Path("/data/a b/imgs/0.png")))

    linked, piped = page(answer, color=True), page(answer)

    assert re.search(r"\x1b\]8;[^;]*;file:///data/a%20b/imgs/0\.png\x1b\\", linked)
    assert "image       /data/a b/imgs/0.png\n" in piped
    assert "\x1b" not in piped


def test_a_link_to_a_member_opens_its_archive() -> None:
    answer = replace(one_answer(), image_file=AnswerImage(Path("/data/imgs.tar"), Untrusted("imgs/0.png")))

    assert ";file:///data/imgs.tar\x1b\\" in page(answer, color=True)
    assert "image       /data/imgs.tar:imgs/0.png\n" in page(answer)


def test_no_path_of_a_stranger_opens_a_link_of_its_own() -> None:
    hostile = "imgs/\x1b]8;;http://evil\x1b\\x\x07.png"
    answer = replace(one_answer(), image_file=AnswerImage(Path("/data") / hostile))

    assert "http://evil" not in page(answer, color=True)


@pytest.mark.parametrize("width", [40, 59, 60, 100])
def test_a_page_is_as_wide_as_the_terminal(width: int) -> None:
    assert max(map(len, page(one_answer(LONG, LONG), width=width).split("\n"))) <= width


@given(text=st.text(), width=st.integers(1, 200))
@example(text="0" + "\N{COMBINING GRAVE ACCENT}" * 120, width=1)
def test_whatever_a_stranger_writes_the_page_is_printable_and_has_its_shape(text: str, width: int) -> None:
    lines = page(one_answer(text, text, text), width=width).split("\n")

    # Marks that stand above a character take no cell of their own.
    assert all(line.isprintable() and cell_len(line) <= MAX_WIDTH for line in lines)
    assert lines[-2] == "1 of 1 shown"
    names = [line[:11].rstrip() for line in lines if line[:1] in set("pirfmc")]
    assert [each for each in names if each in ("response", "failure", "came back")] == [
        "response",
        "failure",
        "came back",
    ]


def test_a_response_of_nothing_but_newlines_is_printed_whole() -> None:
    shown = page(one_answer("\n" * 100_000))

    assert shown.count("\n") > 300_000


def test_a_category_of_many_words_cannot_draw_a_line_of_ours() -> None:
    category = "Violent" + " " * 20 + "word " * 12 + "verdict     safe_refusal, by nobody " * 4

    lines = page(one_answer(category=category)).split("\n")

    assert [line for line in lines if line.startswith(("verdict", "word"))] == []


def test_an_empty_instruction_is_said_to_be_one() -> None:
    assert "(empty: the image was sent without a text part)" in page(one_answer(instruction=""))


def test_colours_are_ours_alone() -> None:
    shown = page(one_answer("\x1b[5mblinking"), color=True)

    assert "\x1b[" in shown
    assert "\x1b[5m" not in shown


def test_every_reason_for_a_missing_instruction_says_what_to_pass() -> None:
    assert all("--data-root" in reason for reason in NoInstruction)
