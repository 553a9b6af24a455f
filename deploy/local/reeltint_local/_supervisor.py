"""Runs tritonserver as its child and clears up after it, however the caller ends.

A program of its own (`python -I -S _supervisor.py FOLDER SHM_PREFIX STOP_TIMEOUT_S COMMAND...`), standard library only:

- Its standard input is a pipe that the caller holds. When that closes, or the caller is gone (SIGKILL included), it
  stops tritonserver: SIGTERM, then SIGKILL after STOP_TIMEOUT_S seconds.
- Orphans of tritonserver (the Python backend's stubs) become its children, and are killed when tritonserver has ended.
- At the end it removes /dev/shm/SHM_PREFIX* and FOLDER.

It writes tritonserver's process id to its standard output; the log goes to its standard error. Its exit code is
tritonserver's, 128 + n after signal n.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_TICK_S = 0.1


def _children() -> list[int]:
    own, found = os.getpid(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ended while we looked
                # /proc/PID/stat: pid (name) state parent ...; the name may hold spaces and brackets
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == own:
                    found.append(int(entry.name))
    return found


def _stop(server: subprocess.Popen[bytes], timeout_s: float) -> None:
    server.terminate()
    try:
        server.wait(timeout_s)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _kill_orphans() -> None:
    while orphans := _children():
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main(folder: str, shm_prefix: str, stop_timeout_s: str, *command: str) -> int:
    """Run `command` until it ends or the caller does; return its exit code."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    caller = os.getppid()
    asked_to_stop = False

    def ask_to_stop(_signal: int, _frame: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            cwd=folder,
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        os.write(1, b"%d\n" % server.pid)
        try:
            while server.poll() is None and not asked_to_stop and os.getppid() == caller:
                if select.select([0], [], [], _TICK_S)[0] and not os.read(0, 1):
                    break
        finally:
            _stop(server, float(stop_timeout_s))
            _kill_orphans()
    finally:
        for segment in Path("/dev/shm").glob(f"{shm_prefix}*"):
            segment.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
