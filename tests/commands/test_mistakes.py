"""A command line with a mistake is answered with what to type, in words that need no manual."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Vlsb, least_environment

STORED_RUN = Path(__file__).parents[1] / "golden" / "runs_0.1.0" / "judged"

Say = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path) -> Say:
    """The one line that a wrong command is answered with, beside a folder `outputs` with the run `demo`."""
    shutil.copytree(STORED_RUN, tmp_path / "outputs" / "demo")
    vlsb = Vlsb(tmp_path, least_environment(tmp_path))

    def answer(*words: str, **env: str) -> str:
        done = vlsb(*words, env=env)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        return done.error.removeprefix("Error: ")

    return answer


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("report",), "PATH... is missing: runs, or directories of runs. See `vlsb report --help`."),
        (("show",), "RUN is missing: the run to read. See `vlsb show --help`."),
        (("gate", "outputs/demo"), "--baseline RUN is missing: the run to compare with, on the same samples"),
        (("audit", "label", "outputs/demo"), "--annotator NAME is missing: who labels"),
        (("import", "x"), "--model NAME is missing: the target's name"),
        (("run", "--modle", "demo"), "No such option: --modle. Did you mean --model? See `vlsb run --help`."),
        (("run", "--max-model-len", "9"), "No such option: --max-model-len. Options of the engine itself"),
        (("report", "--fromat", "json"), "No such option: --fromat. Did you mean --format?"),
        (("report", "--siunitx"), "No such option: --siunitx. See `vlsb report --help`."),
        (("audit", "label", "--open"), "No such option: --open. See `vlsb audit label --help`."),
        (("run", "--limit"), "Option '--limit' needs a value after it. See `vlsb run --help`."),
        (("demo", "demo"), "unexpected argument 'demo'. See `vlsb demo --help`."),
        (("run", "--epochs", "two"), "Invalid value for '--epochs': it must be a whole number."),
        (("run", "--epochs", "0"), "Invalid value for '--epochs': it must be at least 1."),
        (("run", "--replicas", "65"), "Invalid value for '--replicas': it must be at most 64."),
        (("run", "--backoff", "soon"), "Invalid value for '--backoff': it must be a number."),
        (("show", "outputs/demo", "first"), "Invalid value for 'ID': it must be a whole number."),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_mistake_is_answered_with_what_is_meant(said: Say, words: tuple[str, ...], answer: str) -> None:
    assert said(*words).startswith(answer)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (("--model", "gpt-4o", "--gpus", "0"), "--gpus is for engines that vlsb starts"),
        (("--model", "./weights"), "/weights: no such folder"),
        (("--limit", "3"), "Which model? Pass --model NAME"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_what_is_wrong_with_target_and_judge_is_told_in_one_go(
    tmp_path: Path, target: tuple[str, ...], problem: str
) -> None:
    done = Vlsb(tmp_path, least_environment(tmp_path))(
        "run", *target, "--judge", "nobody", "--display", "none"
    )

    assert done.code == 2
    assert problem in done.err
    assert "--judge 'nobody': no provider is known for this name" in done.err


def test_a_wrong_value_of_a_variable_names_the_variable(said: Say) -> None:
    """It is in no line that was typed."""
    answer = said("run", VLSB_EPOCHS="two")

    assert answer.startswith("Invalid value for '--epochs': it must be a whole number (in VLSB_EPOCHS).")


@pytest.mark.parametrize("command", ["report", "view", "show", "compare"])
def test_a_folder_that_is_misspelled_is_told_the_one_beside_it(said: Say, command: str) -> None:
    if command == "compare":
        pytest.importorskip("statsmodels", reason="needs the extra `stats`")
    assert said(command, "output").endswith("Did you mean outputs?")


@pytest.mark.parametrize("words", [("show",), ("judge",), ("judge", "outputs/demo"), ("audit", "report")])
def test_a_directory_of_runs_in_the_place_of_a_run_is_told_a_run_in_it(
    said: Say, words: tuple[str, ...]
) -> None:
    assert "outputs/demo" in said(*words, "outputs").replace("judge outputs/demo", "")
