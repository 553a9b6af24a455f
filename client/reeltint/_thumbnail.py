"""Pictures made small: what embeddings are computed from, and references before they are sent."""

import threading

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

EMBEDDING_SIDE = 320
"""Side of the square that the server's `scene_embedder` is sent; it makes it smaller still."""

_threads = threading.local()  # a reformatter keeps swscale's filters, and serves one thread; so does the frame


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a picture, averaging over area where it gets smaller.

    Args:
        picture: [H, W] or [H, W, 3].
        height: Rows of the result.
        width: Columns of the result.
    """
    if picture.shape[:2] == (height, width):
        return picture
    if not hasattr(_threads, "reformatter"):
        _threads.reformatter = VideoReformatter()
    how = Interpolation.AREA | Interpolation.ACCURATE_RND
    return np.asarray(
        _threads.reformatter.reformat(_frame(picture), width, height, interpolation=how).to_ndarray(), np.uint8
    )


def _frame(picture: NDArray[np.uint8]) -> VideoFrame:
    """The picture in a frame that is used again: new memory for each costs more than the resizing."""
    kind = "gray" if picture.ndim == 2 else "rgb24"
    height, width = picture.shape[:2]
    frame: VideoFrame | None = getattr(_threads, "frame", None)
    if frame is None or (frame.width, frame.height, frame.format.name) != (width, height, kind):
        frame = _threads.frame = VideoFrame(width, height, kind)
    lines: NDArray[np.uint8] = np.ndarray(
        (height, width * (1 if picture.ndim == 2 else 3)),
        np.uint8,
        buffer=frame.planes[0],  # type: ignore[arg-type]  # it has the buffer protocol
        strides=(frame.planes[0].line_size, 1),
    )
    lines[:] = picture.reshape(height, -1)
    return frame


def at_most(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Reduce a picture whose longer side has more than `longest` pixels to that, keeping its shape."""
    height, width = picture.shape[:2]
    if max(height, width) <= longest:
        return picture
    scale = longest / max(height, width)
    return resized(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def embedding_frame(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey square [320, 320] of a picture, [H, W] grey or [H, W, 3] sRGB: luma by BT.709, shape not kept."""
    small = resized(picture, EMBEDDING_SIDE, EMBEDDING_SIDE)
    if small.ndim == 3:
        small = (small @ np.array([0.2126, 0.7152, 0.0722], np.float32) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(small)
