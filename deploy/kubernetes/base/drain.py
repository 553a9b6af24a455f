"""Waits until nobody uses this Triton any more: the preStop hook of its pod, standard library only.

    drain.py [--metrics URL] [--at-least-s 0] [--quiet-s 5] [--timeout-s 90]

Kubernetes takes a pod that is to end out of the service's addresses. Clients notice when they connect anew, which
Triton's --grpc-max-connection-age makes them do: that stops new work. Until then a client that is silent may come back,
so this waits `--at-least-s` seconds (more than that age), and until no model has a request queued and none has been
answered for `--quiet-s` seconds; then it returns, and SIGTERM follows. Triton finishes what is in flight even then, for
--exit-timeout-secs. Exit codes: 0 drained, or the server is gone; 1 still busy after `--timeout-s`; 2 wrong use.
"""

import argparse
import http.client
import re
import sys
import time
import urllib.request

QUEUED = ("nv_inference_pending_request_count",)
ANSWERED = ("nv_inference_request_success", "nv_inference_request_failure")
TICK_S = 0.25


def total(metrics: str, names: tuple[str, ...]) -> float:
    """Sum of the samples called `names` in Prometheus' text format."""
    samples = re.findall(rf"^(?:{'|'.join(names)})(?:\{{.*\}})? (\S+)", metrics, re.MULTILINE)
    return sum(map(float, samples))


def drain(url: str, at_least_s: float, quiet_s: float, timeout_s: float) -> bool:
    """Return when nothing is queued and nothing was answered for `quiet_s` seconds: True; False after `timeout_s`."""
    start = last_work = time.monotonic()
    seen = None
    while time.monotonic() - start < timeout_s:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except ConnectionRefusedError:
            return True
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                return True
            print(f"drain: {url}: {error}", file=sys.stderr)
            text = ""
        answered = total(text, ANSWERED)
        if not text or total(text, QUEUED) or answered != seen:
            last_work, seen = time.monotonic(), answered
        elif time.monotonic() - last_work >= quiet_s and time.monotonic() - start >= at_least_s:
            return True
        time.sleep(TICK_S)
    return False


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Wait until this Triton is idle.")
    parser.add_argument("--metrics", default="http://127.0.0.1:8002/metrics")
    parser.add_argument("--at-least-s", type=float, default=0.0)
    parser.add_argument("--quiet-s", type=float, default=5.0)
    parser.add_argument("--timeout-s", type=float, default=90.0)
    options = parser.parse_args()
    start = time.monotonic()
    idle = drain(options.metrics, options.at_least_s, options.quiet_s, options.timeout_s)
    print(f"drain: {'idle' if idle else 'still busy'} after {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0 if idle else 1


if __name__ == "__main__":
    sys.exit(main())
