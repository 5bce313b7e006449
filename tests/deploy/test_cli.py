"""`sluice` as a shell sees it: output, error line, exit code."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deploy.cli import COMMANDS
from deploy.commands.demo import _bars, _Steps
from deploy.commands.keys import key_table
from deploy.machine.supervision import Phase
from tests.deploy.platforms import PATIENCE_S, ROOT, Platforms, pid_of


def sluice(*arguments: str, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | {"SLUICE_HOME": str(home), "COLUMNS": "120"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_help_names_every_command_and_exit_code(tmp_path: Path):
    shown = sluice("--help", home=tmp_path, COLUMNS="400")

    assert shown.returncode == 0
    assert all(command in shown.stdout for command in COMMANDS)
    assert "SLUICE_URL and SLUICE_KEY send promote, rollback" in shown.stdout, "breaks in the middle of a sentence"
    assert "Exit codes: 0 ok, 1 failed, 2 wrong usage" in shown.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(tmp_path: Path, command: str):
    shown = sluice(command, "--help", home=tmp_path)

    assert shown.returncode == 0
    assert f"sluice {command}" in shown.stdout


def test_help_imports_nothing_heavy():
    program = "import sys; from deploy.cli import main\ntry: main()\nfinally: print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True)

    loaded = shown.stdout.splitlines()[-1]
    assert "'deploy.cli'" in loaded
    assert not [name for name in ("torch", "mlflow", "numpy", "redis", "celery", "fastapi") if f"'{name}'" in loaded]


def test_wrong_usage_ends_with_2(tmp_path: Path):
    assert sluice("upp", home=tmp_path).returncode == 2
    assert sluice("status", "--loud", home=tmp_path).returncode == 2
    refused = sluice("logs", "--level", "loud", home=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_wrong_setting_is_one_line_and_2(tmp_path: Path):
    refused = sluice("status", home=tmp_path, SLUICE_WORKERS="many")

    assert refused.returncode == 2
    assert refused.stderr == "error: SLUICE_WORKERS=many: expected a whole number; try: unset SLUICE_WORKERS\n"


@pytest.mark.parametrize("command", ["status", "down"])
def test_not_running_is_one_line_and_4(tmp_path: Path, command: str):
    refused = sluice(command, home=tmp_path)

    assert refused.returncode == 4
    assert refused.stderr == f"error: Sluice is not running in {tmp_path}; try: sluice up\n"


@pytest.mark.parametrize(
    ("words", "environment", "error"),
    [
        (["--job", "7"], {}, "error: Sluice is not running in "),
        (["--job", "7"], {"SLUICE_WORKERS": "many"}, "error: SLUICE_WORKERS=many: expected a whole number"),
        ([], {}, "Missing option '--job'"),
        (["--job", "7", "--patience-s", "-1"], {}, "Invalid value for '--patience-s'"),
        (["--jobs", "7"], {}, "No such option: --jobs"),
    ],
)
def test_a_job_that_delivers_takes_no_error_for_a_refusal(
    tmp_path: Path, words: list[str], environment: dict[str, str], error: str
):
    ended = sluice("deliver", "search", "7", *words, home=tmp_path, **environment)

    assert (ended.returncode, error in ended.stderr) == (1, True), ended.stderr


def test_not_running_is_json_too(tmp_path: Path):
    refused = sluice("status", "--json", home=tmp_path)

    assert json.loads(refused.stdout) == {"home": str(tmp_path), "running": False, "ready": False}


def test_a_platform_is_shown_refused_a_second_time_and_stopped(platforms: Platforms):
    supervisor = platforms.start("redis")
    platforms.ready(supervisor)
    home = platforms.settings.home

    shown = sluice("status", home=home)
    assert shown.returncode == 0, shown.stderr
    assert "redis" in shown.stdout and "READY" in shown.stdout

    found = json.loads(sluice("status", "--json", home=home).stdout)
    assert found["ready"] and found["supervisor_pid"] == supervisor.pid
    assert [process["name"] for process in found["processes"]] == ["redis"]
    assert found["redis"]["keys"] == 0 and found["redis"]["used_memory_bytes"] > 0
    assert (found["traffic"], found["events"], found["gateway"]) == ([], {}, None)

    refused = sluice("up", home=home)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: Sluice is already running in {home} (supervisor {supervisor.pid}); try: sluice status\n"
    )

    stopped = sluice("down", home=home)
    assert stopped.returncode == 0
    assert stopped.stdout == f"stopped the platform of {home} (supervisor {supervisor.pid})\n"
    assert supervisor.wait(PATIENCE_S) == 0
    assert sluice("status", home=home).returncode == 4


def test_up_beside_a_platform_that_is_stopping_says_so_and_what_helps_does(platforms: Platforms):
    supervisor = platforms.start("lingering")
    lingering = pid_of(platforms.ready(supervisor), "stubborn")
    supervisor.terminate()
    platforms.in_phase(supervisor, "stubborn", Phase.STOPPING, restarts=0)
    home = platforms.settings.home

    refused = sluice("up", home=home)

    assert (refused.returncode, refused.stderr) == (
        1,
        f"error: Sluice is still stopping in {home} (supervisor {supervisor.pid}); "
        "try: sluice down, which waits until it has stopped, then the same command again\n",
    )
    assert sluice("down", "--wait", "1", home=home).returncode == 3
    os.kill(lingering, signal.SIGKILL)
    assert supervisor.wait(PATIENCE_S) == 0
    assert sluice("down", home=home).returncode == 4


def test_the_readme_shows_the_lines_that_status_prints(platforms: Platforms):
    platforms.ready(platforms.start("redis"))
    readme = (ROOT / "README.md").read_text().split("$ .venv/bin/sluice status\n")[1].split("\n```")[0]

    shown = sluice("status", home=platforms.settings.home).stdout

    names = [line.split()[0] for line in shown.split("\n\n")[1].splitlines()]
    written = dict.fromkeys(line.split()[0] for line in readme.split("\n\n")[1].splitlines())
    assert [name for name in written if name in names] == names
    assert readme.splitlines()[0].split() == shown.splitlines()[0].split()


def test_a_platform_that_is_not_all_ready_is_3(platforms: Platforms):
    supervisor = platforms.start("looping")
    platforms.in_phase(supervisor, "looping", Phase.FAILED, restarts=1)

    shown = sluice("status", home=platforms.settings.home)

    assert shown.returncode == 3
    assert shown.stderr.startswith("error: looping ")


def test_the_log_is_shown_by_process(platforms: Platforms):
    platforms.ready(platforms.start("three"))

    shown = sluice("logs", "middle", "--level", "WARNING", home=platforms.settings.home)

    assert shown.stdout.splitlines()[0].endswith("WARNING  middle-0       WARNING middle-0 is up")


def test_up_says_what_the_supervisor_could_not_do(tmp_path: Path):
    (tmp_path / "mlflow").write_text("a file where a folder should be")

    refused = sluice("up", "--detach", home=tmp_path)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {tmp_path / 'mlflow/artefacts'} cannot be made: ")


def test_made_certificates_are_named_whole_on_a_narrow_terminal(tmp_path: Path):
    folder = tmp_path / "a-folder-with-a-rather-long-name"
    made = sluice("certificates", "make", str(folder), home=tmp_path, COLUMNS="80")

    assert made.returncode == 0
    assert all(f"{name}.{kind}" in made.stdout for name in ("ca", "worker", "client") for kind in ("pem", "key"))
    assert f"in {folder}\n" in made.stdout
    assert "…" not in made.stdout.split("SLUICE_FLEET_TLS")[0]


def test_a_step_of_the_demo_is_told_when_it_is_done_where_there_is_no_terminal():
    shown = io.StringIO()
    with _bars(Console(file=shown)) as bars:
        _Steps(bars).run("read the data", lambda told: told(3, 3))
        assert "✓ read the data" in shown.getvalue()
        assert "3 done" in shown.getvalue()
    assert shown.getvalue().count("read the data") == 1


def test_keys_are_listed_whole_on_a_narrow_terminal():
    key = {"id": "5487a756f4c7afbf", "name": "console-root", "prefix": "sluice_-5AhaFuO", "role": "viewer"}
    key |= {"models": [], "requests_per_s": 0.0, "candidates_per_s": 0.0, "created_ms": 1_795_771_000_000}
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    console.print(key_table([key | {"used_ms": None, "expires_ms": 1_803_547_000_000, "revoked_ms": None}]))

    title, *_ = shown.getvalue().splitlines()
    assert title.split() == ["id", "name", "begins", "role", "models", "created", "expires"]
    assert "…" not in shown.getvalue()
    assert all(whole in shown.getvalue() for whole in ("5487a756f4c7afbf", "viewer", "2026-11-27", "2027-02-25"))
    console.print(key_table([]))
