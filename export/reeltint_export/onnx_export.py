"""A trained network as an ONNX graph of its own: plain operators, dynamic batch, the same bytes every time."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reeltint_export.colour_graphs import OPSET
from reeltint_export.precision import Storage as Storage

_SMALL = 16384  # tensors up to this many elements stay float32: they decide which colours and places are alike


class ExportError(ValueError):
    """The network cannot be exported as asked."""


def export_network(network: nn.Module, size: int, storage: Storage = "float16") -> onnx.ModelProto:
    """Turn a network into ONNX: `lightness` [batch, 1, size, size] to `ab` [batch, 2, s, s], both float32.

    Args:
        network: In evaluation mode, weights on the CPU; one of `reeltint_training.networks.NETWORKS`.
        size: Input size S.
        storage: How weights are stored. float16 halves the file; they are cast back when the model is loaded, and
            arithmetic is float32 either way.

    Raises:
        ExportError: `size` is not a positive multiple of the network's stride.
    """
    stride = int(network.stride)  # type: ignore[arg-type]
    if size < stride or size % stride:
        raise ExportError(f"input size {size} is not a positive multiple of {stride}, the stride of this network")
    model = graph_of(network, {"lightness": torch.zeros(2, 1, size, size)}, ("ab",), storage, batched=("lightness",))
    onnx.checker.check_model(model, full_check=True)
    return model


def graph_of(
    module: nn.Module,
    samples: Mapping[str, Tensor],
    outputs: Sequence[str],
    storage: Storage,
    batched: Sequence[str] = (),
) -> onnx.ModelProto:
    """Export a module by example.

    Args:
        module: In evaluation mode.
        samples: Its inputs by name, in order.
        outputs: Names of what it returns.
        storage: How large weights are stored.
        batched: Inputs whose first dimension is free.
    """
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} if name in batched else None for name in samples)
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(samples.values()),
            input_names=list(samples),
            output_names=list(outputs),
            dynamic_shapes=shapes if batched else None,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    model = program.model_proto
    _strip(model)
    if storage == "float16":
        _store_float16(model.graph)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and notes (missing torchvision, its own deprecations) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine that exported: stack traces, module paths, doc strings, tool versions."""
    model.producer_name, model.producer_version, model.doc_string = "reeltint", "", ""
    model.graph.name, model.graph.doc_string = "colorizer", ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def _store_float16(graph: onnx.GraphProto) -> None:
    """Replace every large float32 weight by a float16 one and a Cast, which runtimes fold while loading."""
    casts = []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or array.size <= _SMALL:
            continue
        half = f"{weight.name}.float16"
        casts.append(helper.make_node("Cast", [half], [weight.name], f"{weight.name}.float32", to=TensorProto.FLOAT))
        if np.abs(array).max() > np.finfo(np.float16).max:
            raise ExportError(f"{weight.name} holds values past the range of float16: choose float32 storage")
        weight.CopyFrom(numpy_helper.from_array(array.astype(np.float16), half))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
