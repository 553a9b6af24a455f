"""What the local server refuses before it starts a process."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from reeltint._errors import InvalidRequest
from reeltint_local import LocalTriton, ServeError, _server, default_models
from reeltint_local._server import _reason, _stub, _wheel

ROOT = Path(__file__).parents[2]


def _repository(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n')
    return folder


def test_the_default_repository_is_the_checkouts() -> None:
    assert default_models() == ROOT / "model_repository"


def test_missing_repository(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"model repository .*nowhere does not exist$"):
        LocalTriton(tmp_path / "nowhere").start()


def test_empty_repository(tmp_path: Path) -> None:
    (tmp_path / "not_a_model").mkdir()
    with pytest.raises(InvalidRequest, match="holds no model"):
        LocalTriton(tmp_path).start()


def test_a_named_model_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^no model colour in .*, which has grey, sepia$"):
        LocalTriton(_repository(tmp_path, "sepia", "grey"), only=["grey", "colour"]).start()


def test_unsupported_python() -> None:
    with pytest.raises(ServeError, match=r"no backend for Python 3\.99, only for 3\.8, 3\.9, 3\.10, 3\.11"):
        _stub(_wheel(), "3.99")


def test_addresses_need_a_server(tmp_path: Path) -> None:
    server = LocalTriton(tmp_path)
    with pytest.raises(ServeError, match="not been started"):
        _ = server.address
    with pytest.raises(ServeError, match="does not run"):
        server.wait()
    server.stop()  # nothing to do


def test_without_the_extra(tmp_path: Path) -> None:
    """A Python with all our packages but those of the extra."""
    for package in Path(pytest.__file__).parents[1].iterdir():
        if not package.name.startswith(("pytriton", "nvidia_pytriton", "onnxruntime")):
            (tmp_path / package.name).symlink_to(package)
    _repository(tmp_path / "models", "grey")
    program = f"from reeltint_local import LocalTriton; LocalTriton({str(tmp_path / 'models')!r}).start()"
    path = os.pathsep.join(map(str, (ROOT / "client", ROOT / "deploy/local", tmp_path)))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('pip install "reeltint[local]"')


def test_a_log_that_cannot_be_written_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The pipe is emptied to its end, or Triton would block on it."""
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        raise BrokenPipeError(32, "Broken pipe")

    server = LocalTriton(log=log, verbose=True)
    program = "import sys; sys.stderr.write('E0101 wrong\\n' * 20_000)"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        reader = threading.Thread(target=server._read_log, args=(process,))
        reader.start()
        assert process.wait(30) == 0
        reader.join()
    assert lines == ["E0101 wrong"]
    assert "Broken pipe" in caplog.text


def test_stopping_where_a_fork_holds_the_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = LocalTriton(stop_timeout_s=5)
    supervisor = Path(_server.__file__).with_name("_supervisor.py")
    server._supervisor = process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor, folder, "reeltint_none_", "5", "sleep", "60"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    server.pid = int(process.stdout.readline())
    forks = os.dup(process.stdin.fileno())
    begun = time.monotonic()

    server.stop()

    os.close(forks)
    assert time.monotonic() - begun < 5
    assert process.returncode == 128 + 15
    assert not folder.exists()


def test_a_start_that_takes_too_long_says_what_triton_said(monkeypatch: pytest.MonkeyPatch) -> None:
    server = LocalTriton(start_timeout_s=0)
    server._lines.extend(['E1120 12:16:23.2 4637 server.cc:241] "Not found: no file"', "I1120 loading"])
    monkeypatch.setattr(server, "_ready", lambda: False)
    with subprocess.Popen(["sleep", "60"]) as process:
        server._supervisor = process
        with pytest.raises(ServeError, match=r"^Triton was not ready after 0 s: no file$"):
            server._wait_until_ready(ROOT)
        process.kill()


@pytest.mark.parametrize(
    ("logged", "said"),
    [  # lines of Triton 2.51
        (
            r'Internal: ValueError: bad thing: x\nsecond line\n\nAt:\n  /b/model.py(5): initialize\n"',
            "bad thing: x second line",
        ),
        (
            "error: creating server: Internal - failed to load all models",
            "creating server: Internal - failed to load all models",
        ),
        ('E1120 12:16:23.213014 4637 server.cc:241] "Not found: no file"', "no file"),
    ],
)
def test_reasons_are_one_line(logged: str, said: str) -> None:
    assert _reason(logged) == said
