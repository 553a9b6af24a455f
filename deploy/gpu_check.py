"""What only a GPU can prove about a model repository, proved where there is one: `make gpu-check`.

    python deploy/gpu_check.py [--models DIR] [--json]

Five questions, in this order; each is answered yes, no, or "not tried" and why:

    gpu        is there a GPU whose driver answers?
    cuda       does ONNX Runtime's CUDA provider compute what its CPU provider does, graph by graph, in float16 too?
    engines    does TensorRT build every graph here, and does each engine agree with ONNX Runtime?
    repository do the engines deserialise, and does everything fit its manifest and its config?
    served     does Triton serve the engines (tritonserver, or its container) and the client see the same colours?

Exit codes: 0 yes throughout; 1 a no; 2 no GPU here, or wrong use: nothing was tried; 3 no no, but something could not
be tried.
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from reeltint_export.precision import LIMITS, NETWORKS_IN_HALF, Limits, gpu_limits

Arrays = dict[str, NDArray[Any]]

ROOT = Path(__file__).parents[1]
CONTAINER = "nvcr.io/nvidia/tritonserver:25.08-py3"
START_S = 300
FRAMES_S = 10.0  # how long frames a second are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To one question: what was found, in words."""

    question: str
    answer: Literal["yes", "no", "not tried"]
    found: str


class NotTriedError(Exception):
    """Something that the question needs is missing."""


class WrongError(Exception):
    """The answer is no."""


def gpu() -> str:
    """Name, memory and driver of each GPU."""
    if shutil.which("nvidia-smi") is None:
        raise NotTriedError("no GPU: there is no nvidia-smi")
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise NotTriedError(f"no GPU: nvidia-smi says {(done.stdout + done.stderr).strip().splitlines()[-1:]}")
    return "; ".join(done.stdout.strip().splitlines())


def cuda(models: Path) -> str:
    """Compare the CUDA provider with the CPU provider on every graph, each with the inputs it would really get."""
    import onnx
    import onnxruntime
    from reeltint_export.half import to_half
    from reeltint_export.manifest import read_manifest

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotTriedError('this ONNX Runtime knows no CUDA: pip install "reeltint[gpu]" in place of onnxruntime')
    if hasattr(onnxruntime, "preload_dlls"):  # CUDA and cuDNN of the extra's own packages
        onnxruntime.preload_dlls()
    compared = []
    for name, path, given, expected in _on_cpu(models):
        limits = gpu_limits(name, read_manifest(path.parent))
        graphs = {name: path.read_bytes()}
        if name in NETWORKS_IN_HALF:
            graphs[f"{name} in float16"] = to_half(onnx.load(path)).SerializeToString()
        for label, graph in graphs.items():
            # TF32's 10 bits would be told as a difference of the graph
            session = onnxruntime.InferenceSession(graph, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
            if session.get_providers()[:1] != ["CUDAExecutionProvider"]:
                raise NotTriedError("ONNX Runtime's CUDA provider does not load: it says why above")
            names = [output.name for output in session.get_outputs()]
            found = dict(zip(names, session.run(names, given), strict=True))
            compared += _differences(label, found, expected, limits)
    return "; ".join(compared)


def engines(models: Path) -> str:
    """Build every engine as the export service does; the command compares each with ONNX Runtime itself."""
    if importlib.util.find_spec("tensorrt") is None:
        raise NotTriedError('TensorRT is not installed: pip install "reeltint[tensorrt]", or run in its container')
    start = time.monotonic()
    _export("engines", models)
    sizes = {path.parts[-3]: path.stat().st_size / 2**20 for path in sorted(models.glob("*/*/model.plan"))}
    listed = ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items())
    return f"{len(sizes)} engines in {time.monotonic() - start:.0f} s: {listed}"


def repository(models: Path) -> str:
    """Run the check that stands before every server."""
    if not any(models.glob("*/*/model.plan")):
        raise NotTriedError("there are no engines to deserialise")
    return _export("check", models, "--config-name", "tensorrt")


def served(models: Path) -> str:
    """Colour real frames through Triton and its engines; compare with ONNX Runtime's CPU provider, then hurry."""
    from reeltint import Colorizer

    if not any(models.glob("*/*/model.plan")):
        raise NotTriedError("there are no engines to serve")
    graphs = {name: (given, expected) for name, _, given, expected in _on_cpu(models)}
    given, expected = graphs["chroma_merge"]
    with _triton(models) as address, Colorizer(address) as colorizer:
        chroma = colorizer.colorize(given["frames"]).chroma
        assert chroma is not None
        [compared] = _differences("colorize_chroma", {"chroma": chroma}, expected, LIMITS["float16"])
        speeds = []
        for batch, (height, width) in ((8, (480, 854)), (2, (1080, 1920))):
            frames = np.random.default_rng(0).integers(0, 256, (batch, height, width), np.uint8)
            start, count = time.monotonic(), 0
            for coloured in colorizer.stream(itertools.repeat(frames)):
                count += len(coloured.frames)
                if time.monotonic() - start > FRAMES_S:
                    break
            speeds.append(f"{width}x{height} {count / (time.monotonic() - start):.0f} frames/s")
    return f"{compared}; {', '.join(speeds)}"


def _on_cpu(models: Path) -> Iterator[tuple[str, Path, Arrays, Arrays]]:
    """Each graph's name and file, with the inputs that the graphs before it give and its outputs on the CPU."""
    import onnxruntime
    from reeltint_export.pictures import photographs

    grey, color = photographs(), photographs(color=True)
    frames = np.stack([picture[:300, :400] for picture in grey if min(picture.shape) >= 300])
    known: Arrays = {"frames": frames, "reference": color[0]}
    graphs = sorted(models.glob("*/*/model.onnx"), key=lambda path: int(path.parts[-2]))
    pending = {path.parts[-3]: path for path in graphs}  # the newest version of each
    while pending:
        sessions = {
            name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for name, path in pending.items()
        }
        ready = [name for name, session in sessions.items() if {i.name for i in session.get_inputs()} <= set(known)]
        if not ready:
            raise WrongError(f"nothing gives what {', '.join(pending)} take")
        for name in ready:
            given = {each.name: known[each.name] for each in sessions[name].get_inputs()}
            names = [each.name for each in sessions[name].get_outputs()]
            outputs = dict(zip(names, sessions[name].run(names, given), strict=True))
            for tensor, array in outputs.items():
                known.setdefault(tensor, array)
            yield name, pending.pop(name), given, outputs


def _differences(model: str, found: Arrays, expected: Arrays, limits: Mapping[str, Limits]) -> list[str]:
    lines = []
    for name, array in found.items():
        difference = np.abs(np.asarray(array, np.float64) - np.asarray(expected[name], np.float64))
        mean, most = float(difference.mean()), float(np.percentile(difference, 99.9))
        past = limits[name].exceeded(mean, most, float(difference.max()))
        if past is not None:
            raise WrongError(f"{model} {name}: {past}")
        lines.append(f"{model} {name}: mean {mean:.2g}, 99.9 % {most:.2g}")
    return lines


def _export(command: str, models: Path, *options: str) -> str:
    call = [sys.executable, "-c", "from reeltint_export._cli import app; app()", command, str(models), *options]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise WrongError(f"reeltint-export {command} ended with {done.returncode}: {said[-2000:]}")
    return said.splitlines()[-1] if said else "fits"


@contextlib.contextmanager
def _triton(models: Path) -> Iterator[str]:
    """Address of a Triton that serves the engines."""
    ports = {service: _free_port() for service in ("grpc", "http", "metrics")}
    options = ["--model-config-name=tensorrt", *(f"--{service}-port={port}" for service, port in ports.items())]
    name = f"reeltint-gpu-check-{ports['grpc']}"
    if shutil.which("tritonserver"):
        command = ["tritonserver", f"--model-repository={models}", *options]
    elif shutil.which("docker"):
        mounts = ["--network=host", "--gpus=all", "--shm-size=1g", f"--volume={models}:/models:ro"]
        command = ["docker", "run", "--rm", f"--name={name}", *mounts, CONTAINER, "tritonserver"]
        command += ["--model-repository=/models", *options]
    else:
        raise NotTriedError("there is neither a tritonserver with the TensorRT backend nor a docker to run one")
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + START_S
            while not _ready(ports["http"]):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise WrongError(f"Triton does not start: {log.read()[-2000:]}")
                time.sleep(1)
            yield f"127.0.0.1:{ports['grpc']}"
        finally:
            server.terminate()
            if command[0] == "docker":
                subprocess.run(["docker", "stop", name], capture_output=True, check=False)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(question: str, check: Callable[[], str]) -> Answer:
    """Answer one question."""
    try:
        return Answer(question=question, answer="yes", found=check())
    except NotTriedError as missing:
        return Answer(question=question, answer="not tried", found=str(missing))
    except Exception as wrong:  # noqa: BLE001 # whatever breaks on a GPU is what this is for
        kind = "" if isinstance(wrong, WrongError) else f"{type(wrong).__name__}: "
        return Answer(question=question, answer="no", found=f"{kind}{wrong}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Prove on a GPU what only a GPU can prove.")
    parser.add_argument("--models", type=Path, default=ROOT / "model_repository", help="a copy of it is worked on")
    parser.add_argument("--json", action="store_true", help="the answers as JSON on standard output")
    options = parser.parse_args()
    if not options.models.is_dir():
        parser.error(f"{options.models} is no folder")
    answers = [ask("gpu", gpu)]
    if answers[0].answer == "yes":
        with tempfile.TemporaryDirectory(prefix="reeltint-gpu-check-") as folder:
            copy = Path(folder) / "models"
            shutil.copytree(options.models, copy)
            Path(folder).chmod(0o755)  # the container's user reads it
            for check in (cuda, engines, repository, served):
                answers.append(ask(check.__name__, functools.partial(check, copy)))
    for each in answers:
        print(f"{each.question:10} {each.answer:9} {each.found}", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(each) for each in answers], indent=2))
    given = [each.answer for each in answers]
    if given[0] != "yes":
        print("no GPU: nothing was proved", file=sys.stderr)
        return 2
    return 1 if "no" in given else 3 if "not tried" in given else 0


if __name__ == "__main__":
    sys.exit(main())
