"""The stage driver, utils/stages.sh, under a recipe of shell commands."""

from __future__ import annotations

import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PLAIN = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
RECIPE = r"""#!/usr/bin/env bash
# trial: a recipe for tests.
#   ./run.sh   all of it
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

corpus=        # the folder
head_kind=ctc  # ctc or transducer
options "$@"
exp=exp/$head_kind

stage 0 "Download"       echo download "$corpus"
stage 1 "Data, checked"  echo prepare
stage 3 "Training"       bash -c 'echo "$0"; echo trouble >&2; exit "${FAIL-0}"' "$exp"
stage 3 "Averaging"      echo average "$exp"
stage 5 "Scoring"        printf 'seen  10%%\rseen 100%%\n\033[1mdone\033[0m\n'
"""


@pytest.fixture
def run(tmp_path):
    """Runs ./run.sh of a checkout that has a recipe, the driver and an asrtts on the PATH."""
    recipe = tmp_path / "egs" / "trial" / "asr" / "run.sh"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE)
    recipe.chmod(0o755)
    (tmp_path / "utils").mkdir()
    shutil.copy(TOP / "utils" / "stages.sh", tmp_path / "utils")
    _program(tmp_path / "bin" / "asrtts", "echo asrtts")

    def run(*options: str, **environment: str) -> subprocess.CompletedProcess:
        path = environment.pop("PATH", f"{tmp_path / 'bin'}:{PLAIN['PATH']}")
        return subprocess.run(
            [str(recipe), *options],
            env={**PLAIN, "PATH": path, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    run.folder = recipe.parent
    run.top = tmp_path
    return run


def _program(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_all_stages_run_in_order_and_every_one_is_logged(run):
    done = run("--corpus", "my folder")
    assert done.returncode == 0 and done.stderr == ""
    titles = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert [t.split()[2] for t in titles] == ["0:", "1:", "3:", "3:", "5:"]
    assert sorted(p.name for p in (run.folder / "log").iterdir()) == [
        "0-download.log",
        "1-data--checked.log",
        "3-averaging.log",
        "3-training.log",
        "5-scoring.log",
    ]
    log = (run.folder / "log" / "0-download.log").read_text()
    assert "echo download my\\ folder\ndownload my folder\n" in log  # the command can be copied, then what it said


def test_stage_and_stop_stage_choose_a_part_with_dashes_or_underscores(run):
    for options in (["--stage", "1", "--stop-stage", "3"], ["--stage=1", "--stop_stage=3"]):
        done = run(*options, "--dry-run")
        assert done.stdout.splitlines()[0] == "echo prepare"
        assert done.stdout.splitlines()[-1] == "echo average exp/ctc"
        assert len(done.stdout.splitlines()) == 3


def test_list_and_dry_run_start_nothing(run):
    assert run("--list").stdout.splitlines() == [
        "  0  Download",
        "  1  Data, checked",
        "  3  Training",
        "  3  Averaging",
        "  5  Scoring",
    ]
    assert run("--dry-run").returncode == 0
    assert not (run.folder / "log").exists()


def test_help_says_the_head_comment_the_settings_and_the_stages(run):
    text = run("--help").stdout
    for wanted in (
        "trial: a recipe for tests.",
        "--head_kind=ctc  # ctc or transducer",
        "--stop-stage",
        "3  Averaging",
    ):
        assert wanted in text


def test_a_setting_of_the_recipe_can_be_set_in_either_spelling(run):
    assert "echo average exp/transducer" in run("--dry-run", "--head-kind", "transducer").stdout
    assert "echo average exp/transducer" in run("--dry-run", "--head_kind=transducer").stdout
    assert "echo download a=b" in run("--dry-run", "--corpus", "a=b").stdout


def test_an_environment_variable_is_neither_a_setting_nor_read_as_one(run):
    assert "unknown option '--home'" in run("--home", "/x").stderr
    assert "unknown option '--exp'" in run("--exp", "x").stderr  # it stands below `options`
    assert run("--dry-run", corpus="from-the-environment").stdout.startswith("echo download ''")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--head-knd", "ctc"], "unknown option '--head-knd'; did you mean --head-kind? (options: --list"),
        (["--lits"], "did you mean --list?"),
        (["--stage", "2"], "--stage: there is no stage '2' (stages: 0 1 3 5)"),
        (["--stop-stage", "five"], "--stop-stage: there is no stage 'five'"),
        (["--stage", "3", "--stop-stage", "1"], "--stage 3 comes after --stop-stage 1: nothing to do"),
        (["--corpus"], "--corpus wants a value"),
        (["--corpus", "--list"], "--corpus wants a value"),
        (["train"], "unexpected argument 'train'"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(run, options, said):
    done = run(*options)
    assert done.returncode == 2
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stdout == "" and not (run.folder / "log").exists()


def test_a_failing_stage_stops_the_recipe_with_its_status_its_log_and_the_way_back(run):
    done = run("--head-kind", "transducer", FAIL="7")
    assert done.returncode == 7
    assert "average" not in done.stdout
    assert "run.sh: stage 3 (Training) stopped with status 7; the end of log/3-training.log:" in done.stderr
    assert "  | trouble\n" in done.stderr
    assert "again from here:   ./run.sh --stage 3 --head_kind transducer\n" in done.stderr
    alone = done.stderr.split("this command alone: ")[1].strip()
    again = subprocess.run(["bash", "-c", alone], capture_output=True, text=True, env={**PLAIN, "FAIL": "5"})
    assert (again.returncode, again.stdout, again.stderr) == (5, "exp/transducer\n", "trouble\n")


def test_a_second_run_adds_to_the_log_of_the_first(run):
    run("--stage", "3", "--stop-stage", "3")
    run("--stage", "3", "--stop-stage", "3", "--head-kind", "other")
    log = (run.folder / "log" / "3-averaging.log").read_text()
    assert "average exp/ctc" in log and "average exp/other" in log


def test_the_log_keeps_the_last_state_of_a_progress_bar_and_no_colours(run):
    run("--stage", "5")
    log = (run.folder / "log" / "5-scoring.log").read_text()
    assert log.endswith("\nseen 100%\ndone\n")


def test_the_checkout_s_own_environment_is_used_where_asrtts_is_not_on_the_path(run):
    bare = "/usr/bin:/bin"
    done = run(PATH=bare)
    assert done.returncode == 2 and "asrtts is not on the PATH: activate its environment\n" in done.stderr
    (run.top / "Makefile").touch()
    assert f"its environment, or type 'make demo' in {run.top}\n" in run(PATH=bare).stderr
    _program(run.top / ".venv" / "bin" / "asrtts", "echo from the environment: $*")
    recipe = run.folder / "run.sh"
    recipe.write_text(RECIPE.replace("echo prepare", "asrtts prepare"))
    assert "from the environment: prepare" in run(PATH=bare).stdout
    assert f". {run.top}/.venv/bin/activate" in (run.folder / "log" / "1-data--checked.log").read_text()


def _on_a_terminal(run, typed: bytes = b"", after: bytes = b"") -> tuple[int, bytes]:
    """Run ./run.sh on a terminal of its own; `typed` is typed once `after` is seen. Returns status and screen."""
    environment = {**PLAIN, "PATH": f"{run.top / 'bin'}:{PLAIN['PATH']}"}
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # in a background job it is ignored, and so by all it starts
        os.execve(run.folder / "run.sh", ["./run.sh", "--stage", "1", "--stop-stage", "3"], environment)
    screen, waiting = b"", typed
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # what Linux says when the other side has closed
            break
        if not block:
            break
        screen += block
        if waiting and after in screen:
            os.write(terminal, waiting)
            waiting = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen


def test_progress_bars_stay_alive_on_a_terminal(run):
    recipe = run.folder / "run.sh"
    recipe.write_text(RECIPE.replace("echo prepare", """bash -c 'echo "colour=${FORCE_COLOR-}"'"""))
    status, screen = _on_a_terminal(run)
    assert status == 0 and b"colour=1\r\n" in screen
    assert "colour=\n" in run("--stage", "1").stdout  # and nothing is coloured where there is none


def test_ctrl_c_lets_the_verb_say_its_last_word_and_stops_the_recipe(run):
    polite = """bash -c 'trap "echo may go on; exit 130" INT; echo ready; while :; do sleep 0.1; done'"""
    (run.folder / "run.sh").write_text(RECIPE.replace("echo prepare", polite))
    status, screen = _on_a_terminal(run, typed=b"\x03", after=b"\nready")
    assert status == 130 and b"average" not in screen
    assert b"may go on" in screen and b"stopped with status 130" in screen
    assert (run.folder / "log" / "1-data--checked.log").read_text().endswith("may go on\n")


def test_list_answers_at_once(run):
    """In processor time, which other work on the machine does not lengthen."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--list")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) <= 0.3


def test_another_shell_is_one_line(run):
    done = subprocess.run(["sh", "run.sh", "--list"], cwd=run.folder, env=PLAIN, capture_output=True, text=True)
    if "Download" in done.stdout:
        pytest.skip("sh is bash here")
    assert (done.returncode, done.stderr) == (2, "run.sh: is for bash; type ./run.sh or bash run.sh\n")


# What is checked before the first stage starts.

CHECKED = r"""#!/usr/bin/env bash
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

head=ctc
order=6
seed=1
options "$@"

stage 0 "Before"  bash -c 'echo begun; touch begun'
stage 1 "Data"    asrtts prepare an4 downloads data
stage 3 "Train"   asrtts train "conf/$head.yaml" exp/x "seed=$seed"
stage 4 "Decode"  asrtts decode exp/x data/test
stage 4 "LM"      asrtts lm data/train exp/lm --order "$order"
stage 6 "Later"   asrtts score exp/x --on test
"""
NESTING = r"""#!/usr/bin/env bash
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

head=ctc
seed=1
options "$@"

stage 0 "First"             bash -c 'echo begun; touch begun'
for_each_seed 3 "All SEED"  ./run.sh --stage 0 --stop-stage 0 --head "$head" --seed SEED
"""


@pytest.fixture
def checked(run):
    """`run`, of a recipe whose commands the asrtts of this checkout checks; every start of it is a line in `starts`."""
    (run.folder / "run.sh").write_text(CHECKED)
    nesting = run.folder / "compare.sh"
    nesting.write_text(NESTING)
    nesting.chmod(0o755)
    (run.folder / "conf").mkdir()
    for name in ("ctc", "transducer"):
        (run.folder / "conf" / f"{name}.yaml").write_text(f"encoder: conformer\nheads: {{{name}: 1}}\n")
    starts = f'echo "$1" >> "{run.top}/starts"'
    _program(run.top / "bin" / "asrtts", f'{starts}\nPYTHONPATH="{TOP}" exec "{sys.executable}" -m asrtts "$@"')

    def checked(*options: str, script: str = "run.sh") -> subprocess.CompletedProcess:
        environment = {**PLAIN, "PATH": f"{run.top / 'bin'}:{PLAIN['PATH']}"}
        command = [str(run.folder / script), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    checked.folder, checked.top = run.folder, run.top
    return checked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--head", "trnsducer"],
            "./run.sh: --head trnsducer: there is no conf/trnsducer.yaml; did you mean 'transducer'? "
            "(choices: ctc, transducer) (stage 3, Train)",
        ),
        (["--seed", "one"], "./run.sh: --seed one: conf/ctc.yaml: seed holds 'one'; wanted a whole number (stage 3,"),
        (["--seed", "-1"], "./run.sh: --seed -1: conf/ctc.yaml: seed holds -1; it should be greater"),
        (["--order", "0"], "./run.sh: --order 0: asrtts lm: argument --order: found '0', wanted a whole number"),
        (["--stage", "3"], "./run.sh: data/train.jsonl: no such manifest. Make it with `asrtts prepare`"),
    ],
)
def test_a_wrong_value_is_one_line_before_the_first_stage(checked, options, said):
    done = checked(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1
    assert not (checked.folder / "begun").exists() and not (checked.folder / "log").exists()


def test_a_wrong_value_for_a_recipe_within_a_recipe_is_one_line_before_its_first_stage(checked):
    mistaken = """stage 0 "Train"  asrtts train "conf/$head.yaml" exp/x data.train=conf data.dev=conf\n"""
    (checked.folder / "run.sh").write_text(CHECKED.replace('stage 0 "Before"', mistaken + 'stage 0 "Before"'))
    done = checked("--head", "ct", script="compare.sh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("./compare.sh: --head ct: there is no conf/ct.yaml; did you mean 'ctc'?")
    done = checked("--seed", "1 x", script="compare.sh")
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert "--seed '1 x': wanted a whole number" in done.stderr


def test_recipes_within_a_recipe_are_checked_once(checked):
    done = checked("--seed", "1 2", script="compare.sh")
    assert done.returncode == 0 and done.stdout.count("\nbegun\n") == 3
    assert (checked.top / "starts").read_text().split() == ["--check-commands"]


def test_only_stages_that_will_run_are_checked_and_what_they_make_is_not_required(checked):
    assert checked("--stop-stage", "0", "--head", "no").returncode == 0
    done = checked("--head", "transducer")  # data/test, exp/x and downloads are not there
    assert "stage 1: Data" in done.stdout and done.returncode == 2  # prepare itself: no corpus
    assert (checked.folder / "begun").exists()


def test_the_check_is_quick(checked):
    """In processor time; torch alone would take longer."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert checked("--order", "0").returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) <= 2


def test_a_plain_run_ends_after_stage_5_and_a_stop_stage_goes_on(run):
    """Toy stages: no shipped recipe has numbers above 5 yet."""
    recipe = RECIPE + 'stage 6 "Distillation"  echo distil\nstage 9 "Board"  echo board\n'
    (run.folder / "run.sh").write_text(recipe)
    assert "distil" not in run().stdout and "distil" not in run("--dry-run").stdout
    assert run("--dry-run", "--stop-stage", "9").stdout.endswith("echo distil\necho board\n")
    assert run("--dry-run", "--stage", "6").stdout == "echo distil\necho board\n"
    assert run("--dry-run", "--stage", "6", "--stop-stage", "6").stdout == "echo distil\n"
    assert run("--list").stdout.endswith("  6  Distillation\n  9  Board\n")
    assert "(without: to 5)" in run("--help").stdout and "Board" in run("--help").stdout


@pytest.mark.parametrize(
    "options", [["--stage", "0 1"], ["--stage", ""], ["--stage", "1*"], ["--corpus head", "x"], ["--*", "x"]]
)
def test_a_number_or_name_with_blanks_or_patterns_is_refused(run, options):
    done = run(*options)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
