"""A real NVIDIA Triton on this machine, without Docker or GPU, out of the nvidia-pytriton wheel."""

from reeltint_local._server import LocalTriton, ServeError, default_models

__all__ = ["LocalTriton", "ServeError", "default_models"]
