"""Run benchmarks, print their tables and keep them as JSON: run.py [--kept] [served] [papers_way] [film] and others.

Some measure on clips or photographs that are not part of the project; without them (REELTINT_CLIPS) they are left out.
"""

import argparse
import importlib
import json
import os
import platform
import sys

from common import CLIPS, PHOTOS, RESULTS

NAMES = (
    "served", "papers_way", "film", "library", "references", "scenes", "exemplar", "smoothing", "edges", "clips",
    "export",
)  # fmt: skip
NEEDS = {
    "references": (CLIPS,), "smoothing": (CLIPS,), "edges": (PHOTOS,), "clips": (CLIPS,), "export": (CLIPS, PHOTOS),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--kept", action="store_true", help=f"print the tables of what {RESULTS} keeps; run nothing")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in options.names or NAMES:
        kept = RESULTS / f"{name}.json"
        missing = [path for path in ((kept,) if options.kept else NEEDS.get(name, ())) if not path.exists()]
        if missing:
            print(f"{name}: left out, {missing[0]} is not here", file=sys.stderr)
            continue
        benchmark = importlib.import_module(name)
        if options.kept:
            result = json.loads(kept.read_text())
            del result["machine"]
        else:
            result = benchmark.measure()
            machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
            kept.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
        title = " ".join((benchmark.__doc__ or name).split("\n\n")[0].split())
        print(f"\n{title}\n\n{benchmark.table(result)}", flush=True)


if __name__ == "__main__":
    main()
