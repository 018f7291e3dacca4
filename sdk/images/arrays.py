"""Images that come as arrays, checked."""

import numpy as np

from klieg.errors import ImageError


def as_image(array: np.ndarray) -> np.ndarray:  # [H, W, 3] uint8 or float32 RGB, 0..255
    """Check one RGB image `[height, width, 3]` with values 0..255, of any integer or float type.

    Returns:
        The image, C-contiguous in native byte order: uint8 if it held integers, else float32.
        It may share the memory of `array`.

    Raises:
        ImageError: The array is no such image; the message says what to change.
    """
    _check_layout(array)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind in "iu":
        _check_range(array.min(), array.max())
        return np.ascontiguousarray(array, dtype=np.uint8)
    _check_finite(array)
    _check_range(array.min(), array.max())
    if array.max() <= 1:
        raise ImageError(
            f"the image holds floats up to {array.max():g}, expected 0..255: it was probably "
            "scaled to 0..1, so multiply it by 255, or pass it as uint8 if it really is black"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_layout(array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray):
        raise ImageError(
            f"got {type(array).__name__}, expected a numpy array [height, width, 3]: "
            "convert it with np.asarray"
        )
    if array.dtype.kind not in "iuf":
        raise ImageError(
            f"the image has dtype {array.dtype}, expected integers or floats 0..255: "
            "convert it with image.astype(np.uint8)"
        )
    if array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(
            f"the image has shape {list(array.shape)}, expected [height, width, 3]: "
            f"{_advice(array.shape)}"
        )
    if array.size == 0:
        raise ImageError(
            f"the image has shape {list(array.shape)} and so no pixel, expected at least "
            "[1, 1, 3]: check how it was cropped"
        )


def _advice(shape: tuple[int, ...]) -> str:
    match shape:
        case (_, _):
            return "a grey image becomes RGB with np.stack([image] * 3, axis=2)"
        case (_, _, 1):
            return "a grey image becomes RGB with np.repeat(image, 3, axis=2)"
        case (_, _, 4):
            return "drop the alpha channel with image[:, :, :3]"
        case (3, _, _):
            return "move the channels last with np.moveaxis(image, 0, 2)"
        case (_, _, _, _):
            return "pass the images of a batch one by one, as image[0]"
        case _:
            return "the channels red, green and blue must come last"


def _check_finite(array: np.ndarray) -> None:
    bad = ~np.isfinite(array)  # [H, W, 3] bool
    if not bad.any():
        return
    first = [int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)]
    raise ImageError(
        f"the image holds {np.count_nonzero(bad)} values that are NaN or infinite, the first at "
        f"{first}, expected 0..255: repair or drop the image"
    )


def _check_range(low: np.number, high: np.number) -> None:
    if low < 0 or high > 255:
        raise ImageError(
            f"the image holds values from {low} to {high}, expected 0..255: "
            "pass the photo as it was before it was normalised"
        )
