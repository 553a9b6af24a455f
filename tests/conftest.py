"""What all tests share: markers by folder, and the data beside the checkout where it is there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder sets the marker."""
    for item in items:
        for marker in ("server", "gpu"):
            if marker in item.path.parts:
                item.add_marker(marker)


def shared(path: str) -> Path:
    """A file beside the checkout; the test that needs it skips where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"../shared/{path} is not here")
    return found
