"""The folder of a test sets its marker."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("server", "gpu"):
            if marker in item.path.parts:
                item.add_marker(marker)
