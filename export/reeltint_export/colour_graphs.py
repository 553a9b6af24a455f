"""The colour arithmetic of the served path, as ONNX graphs: `lab_split`, `lab_merge`, `chroma_merge`.

Each graph is written node by node, so that every pass over the pixels is one we chose. What makes them quick:

- Resizing is two matrix products whose weights are computed from the input's shape. `lab_split` cuts the frame's
  height into overlapping bands of a few output rows each, since all other weights of a row are zero.
- Curves are tables read by GatherElements (ONNX Runtime copies single elements ten times slower in Gather): grey
  codes and linear light (15 bits) index them directly.
- The inverse of CIELAB's curve is five passes and no branch (`_linear_light`); its scale, the white point and the
  XYZ to RGB matrix are one constant.

Only operators that TensorRT's ONNX parser takes are used, and nothing but Cast touches uint8. Colour is that of
`reeltint_training.color`: IEC 61966-2-1:1999 and ISO/CIE 11664-4:2019, D65.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from reeltint_training.color import RGB_TO_XYZ, WHITE_D65, linear_to_srgb, srgb_to_lab

OPSET = 18
IR_VERSION = 8
CODE_STEPS = 16
"""`lab_split` rounds the resized grey code to 1/16: an error of at most 0.015 L*."""
LINEAR_LEVELS = 1 << 15
"""Levels of linear light; two neighbours are at most 0.1 of 255 display levels apart."""
BAND = 8
"""Output rows in a band of `lab_split`."""

_DELTA = 0.2068966  # 6/29: CIELAB's curve is a cube above it and its tangent below
_UNIT = math.sqrt(3) * _DELTA  # f(X), f(Y), f(Z) are held in this unit, see _linear_light

_Array = NDArray[np.generic]
_Value = tuple[str, int, Sequence[int | str]]  # name, element type, shape


class _Graph:
    """Nodes in the order written; every method returns the name of the tensor it adds."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        name = name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, value: _Array | float | list[int]) -> str:
        """Hold a number or an array as float32, a list of integers as int64."""
        array = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
        self._constants.append(numpy_helper.from_array(array, f"constant_{len(self._constants)}"))
        return self._constants[-1].name

    def cast(self, tensor: str, kind: int, name: str | None = None) -> str:
        return self.op("Cast", tensor, name=name, to=kind)

    def float(self, tensor: str) -> str:
        return self.cast(tensor, TensorProto.FLOAT)

    def size(self, tensor: str, axis: int) -> str:
        """Length of `tensor` along `axis`, int64 [1]."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def range(self, count: str) -> str:
        """0, 1, … as int64 [count]; `count` is int64 [1]."""
        scalar = self.op("Squeeze", count)
        zero, one = (self.op("Squeeze", self.constant([number])) for number in (0, 1))
        return self.op("Range", zero, scalar, one)

    def unsqueeze(self, tensor: str, *axes: int) -> str:
        return self.op("Unsqueeze", tensor, self.constant(list(axes)))

    def take(self, table: _Array, index: str, shape: str, name: str | None = None) -> str:
        """`table[index]`, reshaped to `shape`; `index` is a float tensor whose fraction is cut off."""
        flat = self.op("Reshape", self.cast(index, TensorProto.INT32), self.constant([-1]))
        values = self.op("GatherElements", self.constant(table), flat, axis=0)
        return self.op("Reshape", values, shape, name=name)

    def model(self, name: str, inputs: Sequence[_Value], output: _Value) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*output)],
            initializer=self._constants,
        )
        model = helper.make_model(
            graph, producer_name="reeltint", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        onnx.checker.check_model(model, full_check=True)
        return model


_FRAMES: _Value = ("frames", TensorProto.UINT8, ("batch", "height", "width"))
_AB: _Value = ("ab", TensorProto.FLOAT, ("batch", 2, "ab_height", "ab_width"))


def lab_split(size: int) -> onnx.ModelProto:
    """Frames to the network's input.

    `frames` [B, H, W] uint8 are grey sRGB codes, full range. They are resized with a triangle filter as wide as the
    reduction (PIL's BILINEAR, torch's `interpolate(mode="bilinear", antialias=True)`), then turned into `lightness`
    [B, 1, size, size] float32, L*/100.

    Raises:
        ValueError: `size` is not a positive multiple of 8.
    """
    if size < BAND or size % BAND:
        raise ValueError(f"input size {size} is not a positive multiple of {BAND}")
    graph = _Graph()
    frames = graph.float("frames")
    bands, rows = _band_weights(graph, graph.size(frames, 1), size)
    x = graph.op("MatMul", rows, graph.op("Gather", frames, bands, axis=1))
    x = graph.op("Reshape", x, graph.constant([0, size, -1]))

    width = graph.size(frames, 2)
    centres, support = _centres_and_support(graph, width, size, (1, size))
    columns = graph.unsqueeze(graph.float(graph.range(width)), 1)
    x = graph.op("MatMul", x, _triangle(graph, columns, centres, support, axis=0))

    half = graph.constant(0.5)
    index = graph.op("Add", graph.op("Mul", x, graph.constant(float(CODE_STEPS))), half)
    codes = torch.arange(255 * CODE_STEPS + 1, dtype=torch.float64) / CODE_STEPS
    graph.take((_grey_lightness(codes) / 100).numpy(), index, graph.constant([-1, 1, size, size]), "lightness")
    return graph.model("lab_split", [_FRAMES], ("lightness", TensorProto.FLOAT, ("batch", 1, size, size)))


def lab_merge() -> onnx.ModelProto:
    """Frames and their colour to RGB.

    `frames` [B, H, W] uint8, grey sRGB codes, and `ab` [B, 2, s, t] float32, a* and b* of the whole picture, resized
    bilinearly (half-pixel centres, edges repeated), to `rgb` [B, H, W, 3] uint8, gamma-encoded; colours outside the
    gamut are clipped. Where ab is 0, R = G = B = the frame's code.
    """
    graph = _Graph()
    frames = graph.float("frames")
    codes = torch.arange(256, dtype=torch.float64)
    grey = graph.take(_curve(codes), frames, graph.op("Shape", graph.unsqueeze(frames, 1)))
    vertical = _bilinear(graph, graph.size("ab", 2), graph.size(frames, 1), graph.size(frames, 1), step=1, phase=0.5)
    horizontal = _bilinear(graph, graph.size("ab", 3), graph.size(frames, 2), graph.size(frames, 2), step=1, phase=0.5)
    linear = _linear_light(graph, grey, vertical, graph.op("Transpose", horizontal, perm=[1, 0]))

    pixels = graph.op("Transpose", graph.op("Reshape", linear, graph.constant([0, 3, -1])), perm=[0, 2, 1])
    levels = _levels(graph, graph.op("MatMul", pixels, graph.constant(_linear_to_levels().T)))
    display = np.round(_display_curve() * 255)
    shape = graph.op("Concat", graph.op("Shape", "frames"), graph.constant([3]), axis=0)
    graph.cast(graph.take(display, levels, shape), TensorProto.UINT8, "rgb")
    return graph.model("lab_merge", [_FRAMES, _AB], ("rgb", TensorProto.UINT8, ("batch", "height", "width", 3)))


def chroma_merge() -> onnx.ModelProto:
    """Frames and their colour to the chroma planes of 4:2:0 video.

    `frames` and `ab` as in `lab_merge`, to `chroma` [B, 2, ceil(H/2), ceil(W/2)] uint8: Cb and Cr of BT.709, limited
    range (16..240, 128 is neutral), of the Lab colour at each chroma sample, clipped to the sRGB gamut.

    Samples are sited as H.264 and HEVC assume when a stream says nothing ("left": on the luma column 2j, between the
    rows 2i and 2i+1). Lightness there is the mean of both rows under a 1-2-1 filter across, edges repeated; ab is
    read bilinearly at that very point of the picture.
    """
    graph = _Graph()
    frames = graph.float("frames")
    padded = graph.op("Pad", frames, graph.constant([0, 0, 1, 0, 1, 1]), mode="edge")
    # three-dimensional, as ONNX Runtime pads a single channel of two dimensions to eight
    kernel = graph.constant(np.array([[[[[1, 2, 1], [1, 2, 1]]]]]))
    eighths = graph.op("Conv", graph.unsqueeze(padded, 1, 2), kernel, kernel_shape=[1, 2, 3], strides=[1, 2, 2])
    eighths = graph.op("Squeeze", eighths, graph.constant([2]))
    codes = torch.arange(255 * 8 + 1, dtype=torch.float64) / 8
    grey = graph.take(_curve(codes), eighths, graph.op("Shape", eighths))
    vertical = _bilinear(graph, graph.size("ab", 2), graph.size(frames, 1), graph.size(eighths, 2), step=2, phase=1.0)
    horizontal = _bilinear(graph, graph.size("ab", 3), graph.size(frames, 2), graph.size(eighths, 3), step=2, phase=0.5)
    linear = _linear_light(graph, grey, vertical, graph.op("Transpose", horizontal, perm=[1, 0]))

    pixels = graph.op("Reshape", linear, graph.constant([0, 3, -1]))
    levels = _levels(graph, graph.op("MatMul", graph.constant(_linear_to_levels()), pixels))
    rgb = graph.take(_display_curve(), levels, graph.op("Shape", levels))
    chroma = graph.op("MatMul", graph.constant(_rgb_to_chroma()), rgb)
    chroma = graph.op("Add", chroma, graph.constant(128.5))
    size = graph.op("Shape", eighths, start=2, end=4)
    shape = graph.op("Concat", graph.size(frames, 0), graph.constant([2]), size, axis=0)
    graph.cast(graph.op("Reshape", chroma, shape), TensorProto.UINT8, "chroma")
    dims = ("batch", 2, "chroma_height", "chroma_width")
    return graph.model("chroma_merge", [_FRAMES, _AB], ("chroma", TensorProto.UINT8, dims))


def _centres_and_support(graph: _Graph, length: str, size: int, shape: tuple[int, ...]) -> tuple[str, str]:
    """Centres, reshaped to `shape`, of `size` cells on an axis of `length` int64 [1]; half the triangle's width."""
    scale = graph.op("Div", graph.float(length), graph.constant(float(size)))
    centres = graph.op("Mul", graph.constant((np.arange(size) + 0.5).reshape(shape)), scale)
    return centres, graph.op("Max", scale, graph.constant(1.0))


def _triangle(graph: _Graph, pixels: str, centres: str, support: str, axis: int) -> str:
    """Triangle weights of float `pixels` (their index) around `centres`, which broadcast; sum 1 along `axis`."""
    away = graph.op("Abs", graph.op("Sub", graph.op("Add", pixels, graph.constant(0.5)), centres))
    weights = graph.op("Relu", graph.op("Sub", graph.constant(1.0), graph.op("Div", away, support)))
    return graph.op("Div", weights, graph.op("ReduceSum", weights, graph.constant([axis]), keepdims=1))


def _band_weights(graph: _Graph, height: str, size: int) -> tuple[str, str]:
    """Which rows each band of `BAND` output rows needs, int64 [G, K], and their weights [G, BAND, K].

    K is the most that a band can reach: (BAND + 1) * max(height/size, 1) + 3 rows, or all rows.
    """
    bands = size // BAND
    centres, support = _centres_and_support(graph, height, size, (bands, BAND))
    reach = graph.op("Mul", graph.op("Max", height, graph.constant([size])), graph.constant([BAND + 1]))
    reach = graph.op("Add", graph.op("Div", reach, graph.constant([size])), graph.constant([3]))
    count = graph.op("Min", reach, height)
    scale = graph.op("Div", graph.float(height), graph.constant(float(size)))
    topmost = graph.op("Mul", graph.constant(np.arange(bands)[:, None] * BAND + 0.5), scale)
    first = graph.cast(graph.op("Floor", graph.op("Sub", topmost, support)), TensorProto.INT64)
    first = graph.op("Max", graph.op("Min", first, graph.op("Sub", height, count)), graph.constant([0]))
    rows = graph.op("Add", first, graph.range(count))
    pixels = graph.unsqueeze(graph.float(rows), 1)
    return rows, _triangle(graph, pixels, graph.unsqueeze(centres, 2), support, axis=2)


def _bilinear(graph: _Graph, source: str, length: str, count: str, *, step: int, phase: float) -> str:
    """Weights [count, source] that read a row of `source` cells at the points (step * i + phase) / length of its width.

    Args:
        graph: Where the nodes go.
        source: Cells, int64 [1].
        length: Pixels of the frame along this axis, int64 [1].
        count: Points wanted, int64 [1].
        step: Pixels from one point to the next.
        phase: Where the first point is, in pixels from the frame's edge.
    """
    cells = graph.float(source)
    ratio = graph.op("Div", cells, graph.float(length))
    points = graph.op("Mul", graph.float(graph.range(count)), graph.constant(float(step)))
    points = graph.op("Mul", graph.op("Add", points, graph.constant(phase)), ratio)
    points = graph.op("Max", graph.op("Sub", points, graph.constant(0.5)), graph.constant(0.0))
    points = graph.op("Min", points, graph.op("Sub", cells, graph.constant(1.0)))
    away = graph.op("Abs", graph.op("Sub", graph.unsqueeze(points, 1), graph.float(graph.range(source))))
    return graph.op("Relu", graph.op("Sub", graph.constant(1.0), away))


def _linear_light(graph: _Graph, grey: str, vertical: str, horizontal: str) -> str:
    """X, Y, Z over their white, in units of `_UNIT` cubed, [B, 3, h, w].

    CIELAB's inverse curve is f^3 above delta = 6/29 and the tangent there, 3 delta^2 f - 2 delta^3, below. With
    v = f / _UNIT and u = max(v, delta / _UNIT) both are _UNIT^3 (u^3 - u + v).

    Args:
        graph: Where the nodes go.
        grey: f(Y) / _UNIT, [B, 1, h, w].
        vertical: Weights [h, s] that resize ab.
        horizontal: Weights [t, w].
    """
    offsets = np.array([[1 / 500, 0], [0, 0], [0, -1 / 200]])[:, :, None, None] / _UNIT
    x = graph.op("Conv", "ab", graph.constant(offsets), kernel_shape=[1, 1])
    x = graph.op("MatMul", vertical, graph.op("MatMul", x, horizontal))
    # f(Z) is not below 0, as in scikit-image
    v = graph.op("Max", graph.op("Add", x, grey), graph.constant(np.array([-1e9, -1e9, 0.0])[:, None, None]))
    u = graph.op("Max", v, graph.constant(_DELTA / _UNIT))
    cube = graph.op("Mul", graph.op("Sub", graph.op("Mul", u, u), graph.constant(1.0)), u)
    return graph.op("Add", cube, v)


def _levels(graph: _Graph, linear: str) -> str:
    """Clip linear light, 0..LINEAR_LEVELS, to the indices of `_display_curve`."""
    return graph.op("Clip", linear, graph.constant(0.0), graph.constant(float(LINEAR_LEVELS - 1)))


def _grey_lightness(codes: torch.Tensor) -> torch.Tensor:
    """L*, 0..100, of grey sRGB codes 0..255; float64 [N]."""
    return srgb_to_lab((codes / 255).expand(3, 1, -1))[0, 0]


def _curve(codes: torch.Tensor) -> NDArray[np.float64]:
    """f(Y) / _UNIT of grey sRGB codes."""
    return np.array((_grey_lightness(codes) + 16) / 116 / _UNIT, np.float64)


def _linear_to_levels() -> NDArray[np.float64]:
    """[3, 3]: what `_linear_light` gives to R, G, B in levels of linear light."""
    matrix = np.linalg.inv(np.array(RGB_TO_XYZ)) @ np.diag(WHITE_D65)
    return np.array(matrix * (_UNIT**3 * LINEAR_LEVELS), np.float64)


def _display_curve() -> NDArray[np.float64]:
    """sRGB, 0..1, at the middle of each level of linear light."""
    middles = (torch.arange(LINEAR_LEVELS, dtype=torch.float64) + 0.5) / LINEAR_LEVELS
    return np.array(linear_to_srgb(middles), np.float64)


def _rgb_to_chroma() -> NDArray[np.float64]:
    """[2, 3]: R'G'B', 0..1, to Cb - 128 and Cr - 128 in 8-bit limited range (ITU-R BT.709-6, items 3.2 to 3.5)."""
    luma = np.array([0.2126, 0.7152, 0.0722])
    red, _, blue = np.eye(3)
    return np.array([224 * (blue - luma) / 1.8556, 224 * (red - luma) / 1.5748])
