"""The rules of decoding, each on a real file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharding.write.decode import BadImage, crop_resize, decode_rgb


def photo(width: int = 40, height: int = 24) -> np.ndarray:
    """A smooth picture without any symmetry, so that each wrong orientation or channel order shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=2).clip(0, 255).astype(np.uint8)


def encode(array: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG from its parts, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


LOSSLESS: list[tuple[str, dict[str, object]]] = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
JPEGS = [encode(NOISE, "JPEG"), encode(NOISE, "JPEG", progressive=True)]
THUMBNAIL = b"\xff\xef" + (len(JPEGS[0]) + 2).to_bytes(2, "big") + JPEGS[0]  # a JPEG inside a header segment
JPEGS.append(JPEGS[0][:2] + THUMBNAIL + JPEGS[0][2:])
ALL_FILES = [
    *(encode(NOISE, name, **options) for name, options in LOSSLESS),
    *JPEGS,
    encode(NOISE, "WEBP"),
    encode(NOISE, "GIF"),
]


@pytest.mark.parametrize(("name", "options"), LOSSLESS)
def test_lossless_formats_give_the_very_pixels(name: str, options: dict[str, object]) -> None:
    image = decode_rgb(encode(photo(), name, **options))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), photo())


def test_jpeg_and_gif_come_close() -> None:
    for data, error in ((encode(photo(), "JPEG", quality=95), 2), (encode(photo(), "GIF"), 12)):
        assert np.abs(np.asarray(decode_rgb(data)).astype(int) - photo()).mean() < error


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_grey_and_palette_become_rgb(mode: str, format: str) -> None:
    image = Image.fromarray(photo()).convert(mode)
    np.testing.assert_array_equal(np.asarray(decode_rgb(encode(image, format))), np.asarray(image.convert("RGB")))


def test_grey_jpeg_has_three_equal_channels() -> None:
    pixels = np.asarray(decode_rgb(encode(photo()[:, :, 0], "JPEG")))
    assert pixels.shape == (24, 40, 3)
    assert (pixels == pixels[:, :, :1]).all()


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(photo()).convert("CMYK")
    pixels = np.asarray(decode_rgb(encode(image, "JPEG", quality=95)))
    assert np.abs(pixels.astype(int) - photo()).mean() < 4


def test_opaque_alpha_is_dropped_and_other_alpha_refused() -> None:
    rgba = np.dstack([photo(), np.full(photo().shape[:2], 255, np.uint8)])
    grey = Image.fromarray(rgba).convert("LA")
    for name in ("PNG", "TIFF"):
        np.testing.assert_array_equal(np.asarray(decode_rgb(encode(rgba, name))), photo())
    assert decode_rgb(encode(grey, "PNG")).mode == "RGB"
    rgba[3, 5, 3] = 254  # the smallest hole
    files = [encode(rgba, "PNG"), encode(rgba, "TIFF"), encode(rgba, "WEBP", lossless=True)]
    rgba[3, 5, 3] = 0
    files.append(encode(Image.fromarray(rgba).convert("LA"), "PNG"))
    files.append(encode(Image.fromarray(photo()), "PNG", transparency=tuple(photo()[0, 0].tolist())))  # a colour key
    files.append(encode(Image.fromarray(photo()).quantize(16), "PNG", transparency=0))
    files.append(encode(Image.fromarray(photo()).quantize(16), "GIF", transparency=0))
    for data in files:
        with pytest.raises(BadImage, match="transparent"):
            decode_rgb(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    # How a camera stores the upright picture under each orientation: the inverse of what the viewer must do.
    upright = photo()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    data = encode(np.ascontiguousarray(stored), format, exif=exif, **options)
    pixels = np.asarray(decode_rgb(data))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (12 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_images_are_refused(format: str) -> None:
    frames = [Image.fromarray(np.roll(photo(), shift, axis=1)) for shift in (0, 7, 14)]
    with pytest.raises(BadImage, match="3 images"):
        decode_rgb(encode(frames[0], format, save_all=True, append_images=frames[1:]))


def test_a_phones_jpeg_with_a_second_picture_gives_the_first() -> None:
    first, second = Image.fromarray(photo()), Image.fromarray(255 - photo())
    data = encode(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(np.asarray(decode_rgb(data)), np.asarray(decode_rgb(encode(first, "JPEG"))))


def test_more_than_8_bits_are_refused() -> None:
    row = b"\0" + bytes(range(60))
    deep = {
        "grey PNG": png(30, 8, 16, 0, row * 8),
        "grey PNG with alpha": png(15, 8, 16, 4, row * 8),
        "colour PNG": png(10, 8, 16, 2, row * 8),
        "grey TIFF": encode(Image.fromarray(photo()[:, :, 0].astype(np.uint16) * 257), "TIFF"),
        "float TIFF": encode(Image.fromarray(photo()[:, :, 0].astype(np.float32)), "TIFF"),
        "colour TIFF": tiff_16_bit(),
    }
    for what, data in deep.items():
        Image.open(io.BytesIO(data)).load()  # Pillow reads each of them, some reduced to 8 bits
        with pytest.raises(BadImage, match="8 bits"):
            print(what, decode_rgb(data))
    assert decode_rgb(png(20, 8, 8, 2, row * 8)).size == (20, 8)  # the same rows with 8 bits


def tiff_16_bit() -> bytes:
    """A 16 x 16 colour TIFF with 16 bits a channel."""
    pixels, after = bytes(16 * 16 * 6), 8
    entries = [(256, 3, 16), (257, 3, 16), (258, 3, None), (259, 3, 1), (262, 3, 2), (273, 4, None), (277, 3, 3)]
    entries += [(278, 3, 16), (279, 4, len(pixels))]
    end = after + 2 + 12 * len(entries) + 4
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        count = 3 if tag == 258 else 1
        directory += struct.pack("<HHII", tag, kind, count, {258: end, 273: end + 6}.get(tag, value))
    return b"II*\0" + struct.pack("<I", after) + directory + bytes(4) + struct.pack("<HHH", 16, 16, 16) + pixels


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"some words", "no readable"),
        (bytes(1000), "no readable"),
        (b"\n <!DOCTYPE html><title>404</title>", "HTML"),
        (b"<html><body>moved</body>", "HTML"),
        (encode(photo(), "PPM"), "no readable"),  # not among the formats
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode_rgb(data)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    for side in (10_001, 20_000):  # over our limit alone, and over Pillow's as well
        with pytest.raises(BadImage, match="too many pixels"):
            decode_rgb(png(side, side, 8, 2, b""))
    with pytest.raises(BadImage, match="40x24 is over the limit of 959"):
        decode_rgb(encode(photo(), "PNG"), max_pixels=40 * 24 - 1)
    assert decode_rgb(encode(photo(), "PNG"), max_pixels=40 * 24).size == (40, 24)


def test_a_big_image_within_the_limit_gives_no_warning() -> None:
    side = 9_500  # Pillow itself warns from 89 million pixels on
    rows = (b"\0" + bytes(side // 8 + 1)) * side  # one bit a pixel, black
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(png(side, side, 1, 0, rows)).size == (side, side)


@given(st.data())
def test_a_cut_file_is_refused_or_still_has_all_its_pixels(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(ALL_FILES))
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        image = decode_rgb(whole[:cut])
    except BadImage:
        return
    assert len(whole) - cut <= 24  # PNG's and GIF's last bytes hold checksums and an end mark, but no pixel
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode_rgb(whole)))


@pytest.mark.parametrize("whole", JPEGS, ids=["baseline", "progressive", "thumbnail"])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused_wherever_it_ends(whole: bytes) -> None:
    assert decode_rgb(whole).size == (40, 24)
    for cut in range(len(whole)):
        for padding in (b"", bytes(len(whole) - cut)):  # zeros: the space was reserved before the file was fetched
            with pytest.raises(BadImage):
                print(cut, decode_rgb(whole[:cut] + padding))


@given(st.binary(max_size=200), st.sampled_from(ALL_FILES), st.integers(0, 3000))
def test_damage_gives_an_image_or_bad_image_and_nothing_else(noise: bytes, whole: bytes, at: int) -> None:
    try:
        assert decode_rgb(whole[:at] + noise + whole[at + len(noise) :]).mode == "RGB"
    except BadImage as error:
        assert str(error)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 50))
def test_the_crop_is_in_the_centre(width: int, height: int, crop: int) -> None:
    side = min(crop, width, height)
    pixels = crop_resize(Image.fromarray(photo(width, height)), crop, side)  # no resizing: the very pixels
    top, left = (round((length - side) / 2.0) for length in (height, width))
    np.testing.assert_array_equal(pixels, photo(width, height)[top : top + side, left : left + side])
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable


def test_no_crop_is_the_largest_square() -> None:
    image = Image.fromarray(photo(40, 24))
    np.testing.assert_array_equal(crop_resize(image, None, 24), photo(40, 24)[:, 8:32])
    np.testing.assert_array_equal(crop_resize(image, 300, 24), photo(40, 24)[:, 8:32])


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = crop_resize(Image.fromarray(stripes), 64, 16)
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 2  # without averaging: 0 or 255


def test_tiny_images_are_refused() -> None:
    assert crop_resize(Image.fromarray(photo(8, 8)), None, 16).shape == (16, 16, 3)
    for width, height in ((7, 100), (100, 7), (1, 1)):
        with pytest.raises(BadImage, match="under 8 px"):
            crop_resize(Image.fromarray(photo(width, height)), None, 16)
