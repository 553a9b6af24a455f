"""The real server, started once for all tests that need our own models."""

from collections.abc import Iterator

import pytest
from reeltint_local import LocalTriton, default_models


@pytest.fixture(scope="session")
def triton() -> Iterator[str]:
    """Address of the wheel's Triton with model_repository; red, not skipped, when it does not start."""
    with LocalTriton(default_models()) as server:
        yield server.address
