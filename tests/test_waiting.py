"""What the tests of other processes stand on: no hang, no failure for a port that somebody else took."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray_heads
from waiting import line_of

_RAY = f"""#!{sys.executable}
# `ray start`, as far as ray_head looks at it.
import socket, sys, time
ports = [int(part.split("=")[1]) for part in sys.argv if "port=" in part]
try:
    held = [socket.create_server(("127.0.0.1", port)) for port in ports]
except OSError as error:
    sys.exit(f"{{error}}: {{ports}}")
print("Ray runtime started", flush=True)
time.sleep(3600)
"""


def speaking(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_wanted_line_is_waited_for_and_no_more_is_read() -> None:
    process = speaking("print('one'); print('two: 2', flush=True); input(); print('three')")
    assert line_of(process, process.stdout, lambda line: line.startswith("two")) == "two: 2\n"
    assert process.communicate("\n")[0] == "three\n"


def test_a_process_that_says_nothing_is_killed_and_fails_the_test() -> None:
    process = speaking("print('something else', flush=True); input()")
    with pytest.raises(AssertionError, match="not said within"):
        line_of(process, process.stdout, lambda line: "wanted" in line, timeout_s=0.2)
    process.communicate()
    assert process.returncode


def test_a_process_that_ends_early_fails_the_test() -> None:
    process = speaking("print('something else')")
    with pytest.raises(AssertionError, match="ended without saying it"):
        line_of(process, process.stdout, lambda line: "wanted" in line)
    process.communicate()


@pytest.mark.parametrize("taken", range(4))
def test_a_head_whose_port_was_taken_starts_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    ray = tmp_path / "ray"
    ray.write_text(_RAY, encoding="utf8")
    ray.chmod(0o755)
    free_ports, told = ray_heads.free_ports, list[str]()
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        first = free_ports(4)
        first[taken] = somebody.getsockname()[1]
        offered = iter([first, free_ports(4)])
        monkeypatch.setattr(ray_heads, "free_ports", lambda count: next(offered))
        with ray_heads.ray_head(before=told.append, environment={"PATH": str(tmp_path)}) as head:
            assert head.address == told[-1] != told[0] == f"127.0.0.1:{first[0]}"


def test_a_head_that_never_starts_fails_the_test_with_its_log(tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    ray.write_text(f"#!{sys.executable}\nraise SystemExit('no memory left')\n", encoding="utf8")
    ray.chmod(0o755)
    with (
        pytest.raises(AssertionError, match=r"failed 3 times\nno memory left"),
        ray_heads.ray_head(environment={"PATH": str(tmp_path)}),
    ):
        pass
