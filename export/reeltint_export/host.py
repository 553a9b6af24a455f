"""What GPU and TensorRT this machine has, and memory on that GPU, by the driver alone: nothing is to be installed."""

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reeltint_export.check import Host

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class CudaError(RuntimeError):
    """The CUDA driver refused a call."""


def this_host() -> Host:
    """TensorRT and GPU of this machine, as far as there are any."""
    try:
        tensorrt = str(importlib.import_module("tensorrt").__version__)
    except (ImportError, OSError):
        tensorrt = None
    return Host(tensorrt=tensorrt, capability=compute_capability())


def compute_capability() -> str | None:
    """That of the first GPU, as "8.9"; None without a GPU or its driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return f"{major.value}.{minor.value}"


def cuda_version() -> str | None:
    """The newest CUDA that the driver speaks, as "13.0"; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or not version.value:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


class Gpu:
    """The first GPU: memory and one stream, gone after the `with`.

    Attributes:
        stream: Handle of the stream.
    """

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._device = ctypes.c_int()
        self.stream = 0

    def __enter__(self) -> "Gpu":
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    @contextlib.contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """Address of `size` bytes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        try:
            yield address.value
        finally:
            self._call("cuMemFree_v2", address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        content = np.ascontiguousarray(array)
        self._call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(content.ctypes.data),
            ctypes.c_size_t(content.nbytes),
        )

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill `array`, which is contiguous, after all that the stream was given."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
        self._call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise CudaError(f"{name} failed: CUDA error {status}")
