"""Run benchmarks, print their tables and keep them as JSON: run.py [served] [papers_way] [film] and others.

Some measure on colour clips that are not part of the project; without them (REELTINT_CLIPS) they are left out.
"""

import importlib
import json
import os
import platform
import sys

from common import CLIPS, RESULTS

NAMES = ("served", "papers_way", "film", "library", "references", "scenes", "exemplar", "smoothing", "clips", "export")
ON_CLIPS = {"references", "smoothing", "clips", "export"}


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NAMES:
        if name in ON_CLIPS and not CLIPS.exists():
            print(f"{name}: left out, {CLIPS} is not here", file=sys.stderr)
            continue
        benchmark = importlib.import_module(name)
        result = benchmark.measure()
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
        print(f"\n{(benchmark.__doc__ or name).splitlines()[0]}\n\n{benchmark.table(result)}", flush=True)


if __name__ == "__main__":
    main()
