"""The colour arithmetic of the served path, as ONNX graphs: `lab_split`, `lab_merge`, `chroma_merge`.

Each graph is written node by node, so that every pass over the pixels is one we chose. What makes them quick:

- Resizing is matrix products whose weights are computed from the input's shape. They are cut into bands that overlap,
  since all but a few weights of a row are zero.
- Curves are tables read by GatherElements (ONNX Runtime copies single elements ten times slower in Gather): grey
  codes and linear light (15 bits) index them directly.
- The inverse of CIELAB's curve is five passes and no branch (`_linear_light`), over X and Z only: Y is read from a
  table. Its scale, the white point and the XYZ to RGB matrix are one constant.

The merges resize ab along the edges of the lightness (`_guided`).

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
from reeltint_training.guided import FLAT, MAX_SLOPE

OPSET = 18
IR_VERSION = 8
CODE_STEPS = 16
"""`lab_split` rounds the resized grey code to 1/16: an error of at most 0.015 L*."""
LINEAR_LEVELS = 1 << 15
"""Levels of linear light; two neighbours are at most 0.1 of 255 display levels apart."""
BAND = 8
"""Output rows in a band of `lab_split`."""
BANDS = 8
"""Bands of rows in the merges."""
STRIPES = 4
"""Pixels are cut into as many parts to read tables: ONNX Runtime's GatherElements has a thread a part at most."""

_DELTA = 0.2068966  # 6/29: CIELAB's curve is a cube above it and its tangent below
_UNIT = math.sqrt(3) * _DELTA  # f(X), f(Y), f(Z) are held in this unit, see _linear_light
_OFFSETS = np.array([1 / 500, -1 / 200])[:, None, None]  # f(X) - f(Y) and f(Z) - f(Y) of a* and b*
_AB_LIMIT = 256.0  # Lab units: past any colour

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
        return self.take_by(table, self.index(index), shape, name)

    def index(self, tensor: str) -> str:
        """`tensor`, its fraction cut off, for `take_by`; the number of its elements is a multiple of `STRIPES`."""
        return self.op("Reshape", self.cast(tensor, TensorProto.INT32), self.constant([STRIPES, -1]))

    def take_by(self, table: _Array, index: str, shape: str, name: str | None = None) -> str:
        """`table[index]`, reshaped to `shape`."""
        stripes = self.op("Expand", self.unsqueeze(self.constant(table), 0), self.constant([STRIPES, 1]))
        return self.op("Reshape", self.op("GatherElements", stripes, index, axis=1), shape, name=name)

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
    x = _resized(graph, graph.float("frames"), graph.size("frames", 1), size)
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    x = graph.op("Transpose", _resized(graph, x, graph.size("frames", 2), size), perm=[0, 2, 1])

    half = graph.constant(0.5)
    index = graph.op("Add", graph.op("Mul", x, graph.constant(float(CODE_STEPS))), half)
    codes = torch.arange(255 * CODE_STEPS + 1, dtype=torch.float64) / CODE_STEPS
    graph.take((_grey_lightness(codes) / 100).numpy(), index, graph.constant([-1, 1, size, size]), "lightness")
    return graph.model("lab_split", [_FRAMES], ("lightness", TensorProto.FLOAT, ("batch", 1, size, size)))


def lab_merge() -> onnx.ModelProto:
    """Frames and their colour to RGB.

    `frames` [B, H, W] uint8, grey sRGB codes, and `ab` [B, 2, s, t] float32, a* and b* of the whole picture, resized
    along the edges of the lightness (`_guided`; half-pixel centres, edges repeated), to `rgb` [B, H, W, 3] uint8,
    gamma-encoded; colours outside the gamut are clipped. Where ab is 0, R = G = B = the frame's code.
    """
    graph = _Graph()
    height, width = graph.size("frames", 1), graph.size("frames", 2)
    down = _Bands(graph, graph.size("ab", 2), height, height, step=1, phase=0.5)
    across = _Axis(graph, graph.size("ab", 3), width, width, step=1, phase=0.5)
    codes = graph.unsqueeze(graph.op("Gather", graph.float("frames"), down.rows, axis=1), 1)
    linear = _linear_light(graph, codes, torch.arange(256, dtype=torch.float64), down, across)

    pixels = graph.op("Transpose", graph.op("Reshape", linear, graph.constant([0, 3, -1])), perm=[0, 2, 1])
    levels = _levels(graph, graph.op("MatMul", pixels, graph.constant(_linear_to_levels().T)))
    display = np.round(_display_curve() * 255)
    shape = graph.op("Concat", graph.size("frames", 0), graph.constant([-1]), width, graph.constant([3]), axis=0)
    rgb = graph.op("Slice", graph.take(display, levels, shape), graph.constant([0]), height, graph.constant([1]))
    graph.cast(rgb, TensorProto.UINT8, "rgb")
    return graph.model("lab_merge", [_FRAMES, _AB], ("rgb", TensorProto.UINT8, ("batch", "height", "width", 3)))


def chroma_merge() -> onnx.ModelProto:
    """Frames and their colour to the chroma planes of 4:2:0 video.

    `frames` and `ab` as in `lab_merge`, to `chroma` [B, 2, ceil(H/2), ceil(W/2)] uint8: Cb and Cr of BT.709, limited
    range (16..240, 128 is neutral), of the Lab colour at each chroma sample, clipped to the sRGB gamut.

    Samples are sited as H.264 and HEVC assume when a stream says nothing ("left": on the luma column 2j, between the
    rows 2i and 2i+1). Lightness there is the mean of both rows under a 1-2-1 filter across, edges repeated; ab is
    read at that very point of the picture.
    """
    graph = _Graph()
    height, width = graph.size("frames", 1), graph.size("frames", 2)
    one, two = graph.constant([1]), graph.constant([2])
    rows, columns = (graph.op("Div", graph.op("Add", size, one), two) for size in (height, width))
    down = _Bands(graph, graph.size("ab", 2), height, rows, step=2, phase=1.0)
    across = _Axis(graph, graph.size("ab", 3), width, columns, step=2, phase=0.5)
    # In bands, as ONNX Runtime pools each channel in one thread. Means of 2 x 2 pixels, then of two such: 1-2-1 across.
    # A mean leaves out what is padding, as if edges were repeated.
    upper = graph.op("Mul", down.rows, two)
    lower = graph.op("Min", graph.op("Add", upper, one), graph.op("Sub", height, one))
    pairs = graph.op("Concat", graph.unsqueeze(upper, 1), graph.unsqueeze(lower, 1), axis=1)
    pairs = graph.op("Reshape", pairs, graph.constant([BANDS, -1]))
    means = graph.op("Gather", graph.float("frames"), pairs, axis=1)
    means = graph.op("AveragePool", means, kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 1])
    means = graph.op("AveragePool", means, kernel_shape=[1, 2], strides=[1, 2])
    plane = graph.op("Concat", graph.size("frames", 0), one, graph.constant([-1]), columns, axis=0)
    eighths = graph.op("Mul", graph.op("Reshape", means, plane), graph.constant(8.0))
    linear = _linear_light(graph, eighths, torch.arange(255 * 8 + 1, dtype=torch.float64) / 8, down, across)

    pixels = graph.op("Reshape", linear, graph.constant([0, 3, -1]))
    levels = _levels(graph, graph.op("MatMul", graph.constant(_linear_to_levels()), pixels))
    rgb = graph.take(_display_curve(), levels, graph.op("Shape", levels))
    chroma = graph.op("MatMul", graph.constant(_rgb_to_chroma()), rgb)
    shape = graph.op("Concat", graph.size("frames", 0), two, graph.constant([-1]), columns, axis=0)
    chroma = graph.op("Slice", graph.op("Reshape", chroma, shape), graph.constant([0]), rows, two)
    graph.cast(graph.op("Add", chroma, graph.constant(128.5)), TensorProto.UINT8, "chroma")
    dims = ("batch", 2, "chroma_height", "chroma_width")
    return graph.model("chroma_merge", [_FRAMES, _AB], ("chroma", TensorProto.UINT8, dims))


def _resized(graph: _Graph, frames: str, length: str, size: int) -> str:
    """Resize [B, length, N] to [B, size, N] under a triangle as wide as the reduction; `length` is int64 [1]."""
    bands, weights = _band_weights(graph, length, size)
    x = graph.op("MatMul", weights, graph.op("Gather", frames, bands, axis=1))
    return graph.op("Reshape", x, graph.constant([0, size, -1]))


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


class _Axis:
    """Points along the height or width of the picture, and the cells of ab along it.

    Args:
        graph: Where the nodes go.
        cells: Of ab, int64 [1].
        length: Pixels of the frame, int64 [1].
        count: Points wanted, int64 [1].
        step: Pixels from one point to the next.
        phase: Where the first point is, in pixels from the frame's edge.
    """

    def __init__(self, graph: _Graph, cells: str, length: str, count: str, *, step: int, phase: float) -> None:
        self.graph, self.cells, self.length, self.count, self.step, self._phase = (
            graph, cells, length, count, step, phase,
        )  # fmt: skip
        self._ratio = graph.op("Div", graph.float(cells), graph.float(length))

    def places(self, index: str) -> str:
        """Where the points `index`, float, are in cells, no further out than the middles of the outermost."""
        graph = self.graph
        pixels = graph.op("Add", graph.op("Mul", index, graph.constant(float(self.step))), graph.constant(self._phase))
        places = graph.op("Sub", graph.op("Mul", pixels, self._ratio), graph.constant(0.5))
        places = graph.op("Max", places, graph.constant(0.0))
        return graph.op("Min", places, graph.op("Sub", graph.float(self.cells), graph.constant(1.0)))

    def reading(self) -> str:
        """Weights [cells, count] that read cells bilinearly."""
        graph = self.graph
        places = self.places(graph.float(graph.range(self.count)))
        return _tent(graph, graph.constant(1.0), places, graph.unsqueeze(graph.float(graph.range(self.cells)), 1))

    def averaging(self, stride: int = 1) -> str:
        """Weights [points, cells] that average every `stride`-th point into cells, under triangles."""
        graph = self.graph
        start, end, step = (graph.op("Squeeze", x) for x in (graph.constant([0]), self.count, graph.constant([stride])))
        places = graph.unsqueeze(self.places(graph.float(graph.op("Range", start, end, step))), 1)
        spacing = graph.op("Mul", self._ratio, graph.constant(float(self.step * stride)))
        reach = graph.op("Max", spacing, graph.constant(1.0))
        weights = _tent(graph, reach, places, graph.float(graph.range(self.cells)))
        return graph.op("Div", weights, graph.op("ReduceSum", weights, graph.constant([0]), keepdims=1))


class _Bands(_Axis):
    """Rows cut into `BANDS` bands of equally many, the last of them repeated as often as it takes.

    Each row reads two cells, a band only few of them. `rows` is the index of every row, int64 [R]; what is more than
    `count` has to be cut off in the end.
    """

    def __init__(self, graph: _Graph, cells: str, length: str, count: str, *, step: int, phase: float) -> None:
        super().__init__(graph, cells, length, count, step=step, phase=phase)
        last = graph.op("Sub", count, graph.constant([1]))
        self._others = graph.op("Div", last, graph.constant([BANDS]))  # rows of a band but one
        band = graph.op("Add", self._others, graph.constant([1]))
        self._index = graph.range(graph.op("Mul", band, graph.constant([BANDS])))
        self.rows = graph.op("Min", self._index, last)

    def read(self, x: str) -> str:
        """Read `x` [B, C, cells, w] bilinearly, [B, C, R, w]."""
        graph = self.graph
        places = self.places(graph.op("Reshape", graph.float(self._index), graph.constant([BANDS, -1])))
        pixels = graph.op("Mul", self._others, graph.constant([self.step]))
        reach = graph.op("Div", graph.op("Mul", pixels, self.cells), self.length)
        reach = graph.op("Min", graph.op("Add", reach, graph.constant([3])), self.cells)
        first = graph.op("Floor", graph.op("Gather", places, graph.constant([0]), axis=1))
        first = graph.op("Min", graph.cast(first, TensorProto.INT64), graph.op("Sub", self.cells, reach))
        cells = graph.op("Add", first, graph.range(reach))
        weights = _tent(graph, graph.constant(1.0), graph.unsqueeze(places, 2), graph.unsqueeze(graph.float(cells), 1))
        x = graph.op("MatMul", weights, graph.op("Gather", x, cells, axis=2))
        shape = graph.op("Concat", graph.op("Shape", x, end=2), graph.size(self.rows, 0), graph.size(x, 4), axis=0)
        return graph.op("Reshape", x, shape)


def _tent(graph: _Graph, reach: str, places: str, cells: str) -> str:
    """max(reach - |places - cells|, 0); `places` and `cells` broadcast."""
    return graph.op("Relu", graph.op("Sub", reach, graph.op("Abs", graph.op("Sub", places, cells))))


def _linear_light(graph: _Graph, codes: str, greys: torch.Tensor, down: _Bands, across: _Axis) -> str:
    """X, Z, Y over their white, in units of `_UNIT` cubed, [B, 3, R, w].

    CIELAB's inverse curve is f^3 above delta = 6/29 and the tangent there, 3 delta^2 f - 2 delta^3, below. With
    v = f / _UNIT and u = max(v, delta / _UNIT) both are _UNIT^3 (u^3 - u + v).

    Args:
        graph: Where the nodes go.
        codes: Each pixel's index in `greys`, float [B, 1, R, w].
        greys: Grey sRGB codes.
        down: The rows.
        across: The columns.
    """
    v, delta = _curve(greys), _DELTA / _UNIT
    u = np.maximum(v, delta)
    shape = graph.op("Shape", codes)
    index = graph.index(codes)
    lightness, y = (graph.take_by(table, index, shape) for table in (v, u**3 - u + v))
    weights = across.reading()
    slope, offset = (down.read(graph.op("MatMul", x, weights)) for x in _guided(graph, lightness, down, across))
    # f(Z) is not below 0, as in scikit-image
    xz = graph.op("Add", graph.op("Mul", slope, lightness), offset)
    xz = graph.op("Max", xz, graph.constant(np.array([-1e9, 0.0])[:, None, None]))
    above = graph.op("Max", xz, graph.constant(delta))
    cube = graph.op("Mul", graph.op("Sub", graph.op("Mul", above, above), graph.constant(1.0)), above)
    return graph.op("Concat", graph.op("Add", cube, xz), y, axis=1)


def _guided(graph: _Graph, lightness: str, down: _Bands, across: _Axis) -> tuple[str, str]:
    """f(X) and f(Z) of each cell of ab as a line over f(Y): slope and offset, [B, 2, s, t], f in `_UNIT`s.

    A guided filter (He, Sun & Tang 2010, Eq. 5 and 6) with its coefficients at the resolution of ab: over 3 x 3 cells
    ab is regressed on L*. It differs from theirs in two things. The line goes through the cell's own ab at the cell's
    mean lightness, so what is not on an edge is resized bilinearly, not blurred. The variance is that of the pixels,
    not of the cells' means: grain, lettering and fine texture, of which ab at this resolution says nothing, are not
    mistaken for edges.
    """
    # what is not a number would become an index outside the tables
    finite = graph.op("Where", graph.op("IsNaN", "ab"), graph.constant(0.0), "ab")
    finite = graph.op("Clip", finite, graph.constant(-_AB_LIMIT), graph.constant(_AB_LIMIT))
    x = graph.op("Mul", finite, graph.constant(_OFFSETS / _UNIT))
    zero, axis, stride = (graph.constant([value]) for value in (0, 2, down.step))
    some = graph.op("Slice", lightness, zero, down.count, axis, stride)  # of chroma's rows every second will do
    rows, columns = graph.op("Transpose", down.averaging(down.step), perm=[1, 0]), across.averaging()
    mean, square = (
        graph.op("MatMul", graph.op("MatMul", rows, y), columns) for y in (some, graph.op("Mul", some, some))
    )
    around, around_square, around_x, product = (
        graph.op("AveragePool", each, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        for each in (mean, square, x, graph.op("Mul", mean, x))
    )
    variance = graph.op("Sub", around_square, graph.op("Mul", around, around))
    covariance = graph.op("Sub", product, graph.op("Mul", around, around_x))
    unit = 116 * _UNIT  # of lightness, in L*
    slope = graph.op("Div", covariance, graph.op("Add", variance, graph.constant((FLAT / unit) ** 2)))
    steepest = MAX_SLOPE * 116 * np.abs(_OFFSETS)
    slope = graph.op("Max", graph.op("Min", slope, graph.constant(steepest)), graph.constant(-steepest))
    offset = graph.op("Sub", x, graph.op("Mul", slope, mean))
    return graph.op("Add", slope, graph.constant(1.0)), offset


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
    return np.array(matrix[:, [0, 2, 1]] * (_UNIT**3 * LINEAR_LEVELS), np.float64)


def _display_curve() -> NDArray[np.float64]:
    """sRGB, 0..1, at the middle of each level of linear light."""
    middles = (torch.arange(LINEAR_LEVELS, dtype=torch.float64) + 0.5) / LINEAR_LEVELS
    return np.array(linear_to_srgb(middles), np.float64)


def _rgb_to_chroma() -> NDArray[np.float64]:
    """[2, 3]: R'G'B', 0..1, to Cb - 128 and Cr - 128 in 8-bit limited range (ITU-R BT.709-6, items 3.2 to 3.5)."""
    luma = np.array([0.2126, 0.7152, 0.0722])
    red, _, blue = np.eye(3)
    return np.array([224 * (blue - luma) / 1.8556, 224 * (red - luma) / 1.5748])
