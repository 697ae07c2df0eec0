"""Raw images to PNG or JPEG on their way to the disk, without ROS."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

import cv2
import numpy as np

from fg_depth_ros.data.bags.storage import COMPRESSED, IMAGE, message_types
from fg_depth_ros.data.io import messages
from fg_depth_ros.data.io.messages import MessageError, MessageFault, image_to_array
from fg_depth_ros.recording.definitions import Message, Topic

_LOG = logging.getLogger(__name__)
# PNG's strongest filters and packing take ten times as long for a few per cent.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
# Colours as a Bayer mosaic or packed YUV are no pixels that a PNG could hold without loss.
_PLAIN = ("mono", "rgb", "bgr", "rgba", "bgra")
_UNNAMED = ("8UC1", "8UC3", "16UC1", "16UC3")  # grey, and OpenCV's order of colours


def image_encoder(
    storage: str, jpeg_quality: int, topics: Container[str]
) -> Callable[[Topic, Message], tuple[Topic, Message]] | None:
    """Make the function that turns Image messages of ``topics`` into CompressedImage on ``<topic>/compressed``.

    Returns None where ``storage`` is neither ``png`` nor ``jpeg``.

    The ``format`` field is image_transport's. The result is what ``image_to_array`` makes of the raw message: with
    ``png`` exactly, with ``jpeg`` nearly. An alpha channel, which means nothing in a camera's image, is left out.
    Untouched are: other topics and types; with ``png`` Bayer and YUV images, which a PNG cannot hold without loss;
    images of an encoding that no camera sends, and damaged ones, with one warning per topic. Images of 16 bits become
    PNG with ``jpeg`` too, or stay as they are.
    """
    if storage not in ("png", "jpeg"):
        return None
    warned: set[str] = set()

    def encode(topic: Topic, message: Message) -> tuple[Topic, Message]:
        if topic.msgtype != IMAGE or topic.name not in topics:
            return topic, message
        try:
            compressed = compress(message.data, storage, jpeg_quality)
        except (MessageError, cv2.error) as error:
            if topic.name not in warned:
                warned.add(topic.name)
                _LOG.warning("%s: recorded as it is, not as %s: %s", topic.name, storage, error)
            compressed = None
        if compressed is None:
            return topic, message
        name = f"{topic.name}/compressed"
        return topic._replace(name=name, msgtype=COMPRESSED), message._replace(topic=name, data=compressed)

    return encode


def compress(data: bytes, storage: str, jpeg_quality: int = 95) -> bytes | None:
    """Compress a raw Image (CDR) to a CompressedImage (CDR); None where ``storage`` cannot hold it.

    Raises MessageError for an image that is damaged or that no camera sends.
    """
    types = message_types()
    try:
        image = types.deserialize_cdr(data, IMAGE)
    except Exception as error:  # damaged data breaks a parser in any way
        raise MessageError(MessageFault.MALFORMED_IMAGE, f"{len(data)} bytes are no whole {IMAGE} ({error})") from error
    form = messages.layout(image.encoding)
    deep = form.dtype.itemsize > 1
    if (storage == "png" or deep) and form.colour not in _PLAIN and image.encoding not in _UNNAMED:
        image_to_array(image)  # an encoding that no camera sends is named
        return None
    pixels = image_to_array(image, mono16_white=None)
    kind = "png" if deep else storage
    colour = pixels.ndim == 3
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if colour else np.ascontiguousarray(pixels)
    options = _PNG if kind == "png" else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    done, packed = cv2.imencode(".png" if kind == "png" else ".jpg", stored, options)
    if not done:
        raise MessageError(MessageFault.MALFORMED_IMAGE, f"{image.encoding} {pixels.shape} cannot be written as {kind}")
    # What the stored pixels are when a reader has undone the compression; a driver's Bayer or YUV image is RGB by now.
    bits = 16 if deep else 8
    name = image.encoding if form.colour in _PLAIN else f"{'rgb' if colour else 'mono'}{bits}"
    text = f"{name}; {kind} compressed {f'bgr{bits}' if colour else ''}"
    message = types.types[COMPRESSED](header=image.header, format=text, data=packed.reshape(-1))
    return bytes(types.serialize_cdr(message, COMPRESSED))
