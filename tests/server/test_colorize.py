"""`reeltint colorize`, from file to file through the real server."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from films import damaged, make_film
from numpy.typing import NDArray
from reeltint import Colorizer, InvalidRequest, ServerUnreachable
from reeltint._colorize import colorize_film
from reeltint._film import write_still
from reeltint_local import LocalTriton
from skimage import data

COMMAND = [sys.executable, "-c", "from reeltint._cli import main; main()", "colorize"]


def run(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def planes(path: Path) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[Fraction]]:
    """Luma planes, Cb planes (where there are some) and times of a film."""
    luma: list[NDArray[Any]] = []
    blue: list[NDArray[Any]] = []
    times = []
    with av.open(str(path)) as film:
        for frame in film.decode(film.streams.video[0]):
            kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            for store, plane in zip((luma, blue), frame.planes, strict=False):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
                store.append(rows.view(kind)[:, : plane.width].copy())
            assert frame.pts is not None
            assert frame.time_base is not None
            times.append(frame.pts * frame.time_base)
    return luma, blue, times


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twenty frames of a face at uneven times, 10 bit, with a tone."""
    path = tmp_path / "grey.mkv"
    face = av.VideoFrame.from_ndarray(data.astronaut()[:240, 120:360].copy(), "rgb24").reformat(format="gray10le")
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 240, 240, "gray10le"
        sound = output.add_stream("pcm_s16le", rate=8000)
        for index in range(20):
            face.pts, face.time_base = index * 40 + index % 3, Fraction(1, 1000)
            output.mux(video.encode(face))
        output.mux(video.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 6400), np.int16), "s16", "mono")
        tone.sample_rate, tone.pts, tone.time_base = 8000, 0, Fraction(1, 8000)
        output.mux(sound.encode(tone))
        output.mux(sound.encode(None))
    return path


def test_a_film_gets_colour_and_keeps_everything_else(triton: str, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "color.mkv"
    report = json.loads(run(film, target, "--server", triton, "--quality", 0, "--json").stdout)["reports"][0]
    assert report["frames"] == 20
    assert report["elapsed_s"] >= report["decode_s"] + report["encode_s"]
    luma, _, times = planes(film)
    coloured_luma, blue, coloured_times = planes(target)
    assert coloured_times == times
    assert all(np.array_equal(a, b) for a, b in zip(luma, coloured_luma, strict=True))
    assert np.abs(blue[0].astype(int) - 512).mean() > 8  # 10-bit codes: it is not grey
    with av.open(str(target)) as output:
        assert [s.type for s in output.streams] == ["video", "audio"]
        assert output.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


def test_part_of_a_film_side_by_side(triton: str, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "part.mp4"
    run(film, target, "--server", triton, "--start", "0.2", "--end", "0.5", "--side-by-side")
    luma, blue, times = planes(target)
    assert times[0] == 0
    assert 7 <= len(times) <= 8
    assert luma[0].shape == (240, 480)
    assert np.all(blue[0][:, :118].astype(int) == 512)  # the left half is grey
    assert np.abs(blue[0][:, 122:].astype(int) - 512).mean() > 8


def test_a_still_and_a_folder_of_stills(triton: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, picture in {"cat.png": data.chelsea(), "cup.jpg": data.coffee()}.items():
        write_still(folder / name, picture)
    (folder / "broken.png").write_bytes(b"no picture")
    done = run(folder, tmp_path / "out", "--server", triton, "--json", code=1)
    assert "broken.png" in done.stderr
    assert len(json.loads(done.stdout)["reports"]) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cat.png", "cup.png"]
    run(folder / "cat.png", tmp_path / "cat.jpg", "--server", triton)
    with av.open(str(tmp_path / "cat.jpg")) as still:
        rgb = next(still.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert rgb.shape == data.chelsea().shape
    assert np.abs(rgb[..., 0] - rgb[..., 2]).mean() > 5
    run(folder / "cat.png", tmp_path / "red.png", "--server", triton, "--reference", folder / "cup.jpg")
    write_still(folder / "grey.png", data.chelsea()[..., [1, 1, 1]])
    refused = run(
        folder / "cat.png", tmp_path / "no.png", "--server", triton, "--reference", folder / "grey.png", code=1
    )
    assert "it has no colour to give" in refused.stderr


def test_without_a_server_one_is_started(film: Path, tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    assert not run(film, tmp_path / "color.mp4").stderr.startswith("\n")
    assert (tmp_path / "color.mp4").stat().st_size > 1000
    assert set(Path("/dev/shm").iterdir()) <= before


def test_a_server_that_dies_leaves_the_part_that_is_done(film: Path, tmp_path: Path) -> None:
    make_film(tmp_path / "long.mkv", pts=range(400), width=320, height=240)
    target = tmp_path / "color.mkv"
    with LocalTriton(only=["colorize_chroma"]) as server, Colorizer(server.address, retries=0) as colorizer:
        done = run(film, target, "--server", server.address, code=1)
        assert "scene_embedder" in done.stderr
        assert "--no-scenes" in done.stderr

        def kill(done: int, time_s: float) -> None:
            if done == 40 and server.pid:
                os.kill(server.pid, signal.SIGKILL)

        with pytest.raises(ServerUnreachable) as caught:
            colorize_film(tmp_path / "long.mkv", target, colorizer, on_frame=kill)
    assert "color.partial.mkv" in "".join(caught.value.__notes__)
    assert not target.exists()
    assert len(planes(tmp_path / "color.partial.mkv")[0]) >= 40


def test_a_film_damaged_in_the_middle_is_kept_up_to_there(triton: str, tmp_path: Path) -> None:
    """All pictures before the damage are in the partial file, though they were in flight when it was met."""
    source = damaged(tmp_path, 30)
    done = run(source, tmp_path / "color.mkv", "--server", triton, code=1)
    assert "in.mp4 at 1.16" in done.stderr
    assert "color.partial.mkv" in done.stderr
    assert len(planes(tmp_path / "color.partial.mkv")[0]) == 30
    done = run(source, tmp_path / "color.mkv", "--server", triton, "--tolerate-damage")
    said = done.stderr.splitlines()  # one line each where nobody watches, no bars
    assert said[0].startswith(f"reeltint: {source}: ")
    assert said[-1].startswith(f"{tmp_path / 'color.mkv'}: ")
    assert all(line and line == line.strip() for line in said)
    assert len(planes(tmp_path / "color.mkv")[0]) > 40


def test_ctrl_c_keeps_the_part_and_leaves_no_server(film: Path, tmp_path: Path) -> None:
    make_film(tmp_path / "long.mkv", pts=range(3000), width=320, height=240)
    target = tmp_path / "color.mkv"
    command = [*COMMAND, "--no-scenes", "--encoder", "ffv1", str(tmp_path / "long.mkv"), str(target)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "color.partial.mkv"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "color.partial.mkv" in said
    assert partial.exists()
    assert not target.exists()


def test_a_batch_of_none_is_wrong_use(triton: str, film: Path, tmp_path: Path) -> None:
    run(film, tmp_path / "o.mkv", "--server", triton, "--batch", 0, code=2)
    with Colorizer(triton) as colorizer, pytest.raises(InvalidRequest, match="batch"):
        colorize_film(film, tmp_path / "o.mkv", colorizer, batch=0)
