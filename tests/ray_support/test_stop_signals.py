"""A signal ends a job with the exit code of shells, whatever its main thread does, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_S, line_of

from rayrec.ray_support import stop_signals

# Each runs in a process of its own. The last line before the wait is printed when everything is in place.
_JOB = """
import signal, subprocess, sys, time
from jobs.cli import command
from rayrec.ray_support import stop_signals
from rayrec.storage import temporary_folders

stop_signals._GRACE_S = 0.2

def job():
    with temporary_folders.temporary_folder() as folder:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(child.pid, folder, flush=True)
        {wait}

command(job)(args=[])
"""
_WAITS = {
    "python": "time.sleep(600)",
    "swallows": """
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                pass""",
    "another handler": "signal.signal(signal.SIGTERM, lambda *_: None); time.sleep(600); time.sleep(600)",
    "a thread": "import threading; threading.Thread(target=time.sleep, args=(600,)).start(); time.sleep(600)",
}


def ended(pid: int) -> bool:
    """Whether the process has ended, possibly as a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("wait", _WAITS)
def test_a_signal_ends_the_job_and_all_that_it_started(wait: str, number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _JOB.format(wait=_WAITS[wait])],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    child, folder = line_of(process, process.stdout).split()
    assert Path(folder).is_dir()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; run the same command again" in said
    assert list(tmp_path.iterdir()) == []
    assert ended(int(child))


def test_a_job_without_a_signal_keeps_its_exit_code() -> None:
    text = "from jobs.cli import command\ndef job():\n    raise SystemExit(5)\ncommand(job)(args=[])"
    assert subprocess.run([sys.executable, "-c", text], timeout=PATIENCE_S).returncode == 5


def test_a_forked_child_that_is_terminated_does_not_stop_the_job() -> None:
    text = """
import os, signal, time
from jobs.cli import command
def job():
    child = os.fork()
    if not child:
        time.sleep(600)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
command(job)(args=[])
"""
    done = subprocess.run([sys.executable, "-c", text], timeout=PATIENCE_S, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_that_the_thread_learns_of_first_ends_the_main_thread_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stop_signals._State, "received", signal.SIGTERM)
    monkeypatch.setattr(stop_signals._State, "raised", False)
    with pytest.raises(stop_signals.Stopped, match="SIGTERM"):
        stop_signals._raise(signal.SIGTERM, None)
    stop_signals._raise(signal.SIGTERM, None)  # once is enough
