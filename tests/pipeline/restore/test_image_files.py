"""Image files, made here by Pillow or byte by byte, read and written in every form that is supported or refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.restore.image_files import (
    DecodedImage,
    check_writable,
    list_images,
    plan_outputs,
    read_image,
    write_image,
)

FORMATS = ["PNG", "JPEG", "WEBP"]
LOSSLESS_SUFFIXES = [".png", ".webp"]
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = SRGB_PROFILE[:16] + b"GRAY" + SRGB_PROFILE[20:]
same_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A colour gradient without symmetry, which JPEG keeps within a few levels."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(np.stack([200 * rows, 200 * columns, 100 * rows * columns], axis=2)).astype(np.uint8)


def save(path: Path, image: Image.Image, file_format: str, **options: object) -> Path:
    image.save(path, file_format, **({"lossless": True, "exact": True} if file_format == "WEBP" else {}), **options)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_file(path: Path, width: int, height: int, bits: int, colour_type: int, rows: bytes, *extra: bytes) -> Path:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    return path


def refused(path: Path, *words: str) -> None:
    """One sentence that names the file, the problem and the way out."""
    with pytest.raises(ValueError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.count(str(path)) == 1 and "\n" not in message and ": " in message
    assert all(word in message for word in words), message


# Reading


@same_folder
@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.booleans(), st.sampled_from(LOSSLESS_SUFFIXES))
def test_lossless_round_trip(
    tmp_path: Path, height: int, width: int, grayscale: bool, transparent: bool, suffix: str
) -> None:
    rgb = np.repeat(noise(height, width, 1), 3, axis=2) if grayscale else noise(height, width, 3)
    alpha = noise(height, width, seed=1) if transparent else None
    if alpha is not None:
        alpha[0, 0] = 0  # what Pillow counts as transparent must hold for WebP, which drops an all-opaque channel
    path = tmp_path / f"image{suffix}"
    write_image(path, rgb, like=DecodedImage(rgb, alpha, grayscale, None))
    back = read_image(path)
    np.testing.assert_array_equal(back.rgb, rgb)
    assert back.rgb.dtype == np.uint8 and back.rgb.flags.writeable and back.rgb.flags.c_contiguous
    assert back.grayscale == (grayscale and suffix == ".png")  # WebP always has three
    if alpha is None:
        assert back.alpha is None
    else:
        np.testing.assert_array_equal(back.alpha, alpha)


def stored_for(orientation: int, upright: np.ndarray) -> np.ndarray:
    """The rows a camera stores, after the table of the EXIF standard: which side of the scene is the first stored row,
    and which the first stored column."""
    sides = ["top left", "top right", "bottom right", "bottom left", "left top", "right top", "right bottom"]
    first_row, first_column = [*sides, "left bottom"][orientation - 1].split()
    stored = upright
    if "bottom" in (first_row, first_column):
        stored = stored[::-1]
    if "right" in (first_row, first_column):
        stored = stored[:, ::-1]
    return stored.swapaxes(0, 1) if first_row in ("left", "right") else stored


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, file_format: str) -> None:
    upright = smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"exif": exif} | ({"quality": 95, "subsampling": 0} if file_format == "JPEG" else {})
    stored = Image.fromarray(np.ascontiguousarray(stored_for(orientation, upright)))
    path = save(tmp_path / "in", stored, file_format, **options)
    image = read_image(path)
    tolerance = 6 if file_format == "JPEG" else 0
    np.testing.assert_allclose(image.rgb.astype(int), upright, atol=tolerance)
    write_image(tmp_path / "out.png", image.rgb, like=image)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").rgb, image.rgb)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_orientation_turns_alpha_too(tmp_path: Path, file_format: str) -> None:
    rgba = noise(5, 9, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(stored_for(6, rgba)))
    image = read_image(save(tmp_path / "in", stored, file_format, exif=exif))
    np.testing.assert_array_equal(image.rgb, rgba[:, :, :3])
    np.testing.assert_array_equal(image.alpha, rgba[:, :, 3])


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("block", [b"garbage!", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_leaves_the_image_as_stored(tmp_path: Path, file_format: str, block: bytes) -> None:
    path = save(tmp_path / "in", Image.fromarray(smooth(8, 12)), file_format, exif=b"Exif\0\0" + block)
    assert read_image(path).rgb.shape == (8, 12, 3)


def test_palette_becomes_rgb_and_its_transparency_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    plain = read_image(save(tmp_path / "plain.png", image, "PNG"))
    assert plain.rgb.tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert plain.alpha is None and not plain.grayscale
    clear = read_image(save(tmp_path / "clear.png", image, "PNG", transparency=bytes([0, 128, 255])))
    assert clear.rgb.tolist() == plain.rgb.tolist()
    assert clear.alpha is not None and clear.alpha.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_any_depth_with_a_transparent_gray(tmp_path: Path, bits: int) -> None:
    """Eight pixels count up through the possible grays; gray number 1 is transparent."""
    grays = np.arange(8) % 2**bits
    packed = np.packbits(np.unpackbits(grays.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
    opaque = read_image(png_file(tmp_path / "opaque.png", 8, 1, bits, 0, b"\0" + packed))
    expected = grays * 255 // (2**bits - 1)
    assert opaque.grayscale and opaque.alpha is None
    np.testing.assert_array_equal(opaque.rgb, np.repeat(expected[None, :, None], 3, axis=2))
    clear = read_image(png_file(tmp_path / "clear.png", 8, 1, bits, 0, b"\0" + packed, chunk(b"tRNS", b"\0\1")))
    assert clear.grayscale and clear.alpha is not None
    np.testing.assert_array_equal(clear.rgb, opaque.rgb)
    np.testing.assert_array_equal(clear.alpha[0], np.where(grays == 1, 0, 255))


def test_gray_jpeg_stays_gray(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "in.jpg", Image.fromarray(smooth(16, 16)[:, :, 0]), "JPEG"))
    assert image.grayscale and np.ptp(image.rgb, axis=2).max() == 0
    write_image(tmp_path / "out.jpg", image.rgb, like=image)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.mode == "L"


def test_cmyk_jpeg_becomes_rgb_without_the_printers_profile(tmp_path: Path) -> None:
    profile = SRGB_PROFILE[:16] + b"CMYK" + SRGB_PROFILE[20:]
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow ink: red
    image = read_image(save(tmp_path / "in.jpg", image, "JPEG", icc_profile=profile))
    np.testing.assert_allclose(image.rgb[8, 8].astype(int), [255, 0, 0], atol=3)
    assert image.icc_profile is None and not image.grayscale


def test_telephone_jpeg_with_a_second_frame_is_read(tmp_path: Path) -> None:
    first, second = (Image.fromarray(pixels) for pixels in (smooth(16, 24), 255 - smooth(16, 24)))
    path = save(tmp_path / "in.jpg", first, "MPO", save_all=True, append_images=[second], quality=95)
    np.testing.assert_allclose(read_image(path).rgb.astype(int), smooth(16, 24), atol=8)


# Refusing


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused(tmp_path: Path, colour_type: int, channels: int) -> None:
    path = png_file(tmp_path / "deep.png", 2, 1, 16, colour_type, b"\0" + b"\x12\x34" * 2 * channels)
    refused(path, "16 bits", "convert it to 8 bits")


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animation_is_refused(tmp_path: Path, file_format: str) -> None:
    first, second = (Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in (0, 1))
    refused(save(tmp_path / "moving", first, file_format, save_all=True, append_images=[second]), "animated")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty", "copy")
    (tmp_path / "text.jpg").write_text("not an image")
    refused(tmp_path / "text.jpg", "not a PNG, JPEG or WebP")
    refused(save(tmp_path / "moving.png", Image.new("P", (8, 8)), "GIF"), "not a PNG, JPEG or WebP")
    refused(tmp_path / "missing.png", "cannot be read", "check its name")
    refused(tmp_path, "cannot be read")


def test_giant_image_is_refused_by_its_header(tmp_path: Path) -> None:
    refused(png_file(tmp_path / "giant.png", 30_000, 20_000, 8, 2, b""), "30000 x 20000 pixels", "cut it")


@same_folder
@given(st.data(), st.sampled_from(FORMATS))
def test_truncated_file_is_refused(tmp_path: Path, data: st.DataObject, file_format: str) -> None:
    encoded = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(encoded, file_format)
    whole = encoded.getvalue()
    # A PNG's last 12 bytes only say that it ends.
    last = len(whole) - (12 if file_format == "PNG" else 1)
    path = tmp_path / "short"
    path.write_bytes(whole[: data.draw(st.integers(0, last))])
    refused(path)


@same_folder
@given(st.integers(0, 900), st.integers(0, 7))
def test_flipped_bit_in_a_png_is_refused(tmp_path: Path, position: int, bit: int) -> None:
    path = save(tmp_path / "in.png", Image.fromarray(noise(17, 18, 3)), "PNG")
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1 << bit
    path.write_bytes(damaged)
    refused(path)


def test_bytes_after_the_end_are_ignored(tmp_path: Path) -> None:
    for file_format in FORMATS:
        path = save(tmp_path / "in", Image.fromarray(noise(8, 8, 3)), file_format)
        path.write_bytes(path.read_bytes() + b"appended by a tool")
        assert read_image(path).rgb.shape == (8, 8, 3)


# Writing


def test_jpeg_is_of_quality_95_without_subsampling(tmp_path: Path) -> None:
    write_image(tmp_path / "out.JPG", smooth(16, 16))
    reference = io.BytesIO()
    Image.fromarray(smooth(16, 16)).save(reference, "JPEG", quality=95, subsampling="4:4:4")
    assert (tmp_path / "out.JPG").read_bytes() == reference.getvalue()


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
@same_folder
def test_gray_is_the_rounded_average(tmp_path: Path, red: int, green: int, blue: int) -> None:
    rgb = np.array([[[red, green, blue]]], dtype=np.uint8)
    write_image(tmp_path / "out.png", rgb, like=DecodedImage(rgb, None, True, None))
    assert read_image(tmp_path / "out.png").rgb[0, 0].tolist() == [round((red + green + blue) / 3)] * 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("grayscale", [False, True])
def test_profile_is_copied_where_it_fits(tmp_path: Path, suffix: str, grayscale: bool) -> None:
    gray_file = grayscale and suffix != ".webp"
    path = tmp_path / f"out{suffix}"
    for profile, fits in ((SRGB_PROFILE, not gray_file), (GRAY_PROFILE, gray_file)):
        write_image(path, smooth(8, 8), like=DecodedImage(smooth(8, 8), None, grayscale, profile))
        assert read_image(path).icc_profile == (profile if fits else None)


def test_no_other_metadata_is_copied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker of the camera"
    path = save(tmp_path / "in.jpg", Image.fromarray(smooth(8, 8)), "JPEG", exif=exif, comment=b"a secret")
    image = read_image(path)
    for suffix in (".jpg", ".png", ".webp"):
        write_image(tmp_path / f"out{suffix}", image.rgb, like=image)
        written = (tmp_path / f"out{suffix}").read_bytes()
        assert b"maker of the camera" not in written and b"a secret" not in written


@pytest.mark.parametrize(
    ("name", "size", "has_alpha", "words"),
    [
        ("out.jpg", (4, 4), True, ["transparency", ".png"]),
        ("out.webp", (4, 16_384), False, ["16383", ".png"]),
        ("out.jpeg", (65_501, 4), True, ["transparency", "65500"]),
        ("out.tif", (4, 4), False, [".webp"]),
        ("out", (4, 4), False, [".webp"]),
    ],
)
def test_unwritable_is_refused(
    tmp_path: Path, name: str, size: tuple[int, int], has_alpha: bool, words: list[str]
) -> None:
    rgb = np.zeros((*size, 3), np.uint8)
    alpha = np.zeros(size, np.uint8) if has_alpha else None
    with pytest.raises(ValueError) as from_check:
        check_writable(tmp_path / name, *size, has_alpha=has_alpha)
    with pytest.raises(ValueError) as from_write:
        write_image(tmp_path / name, rgb, like=DecodedImage(rgb, alpha, False, None))
    assert str(from_check.value) == str(from_write.value)
    assert all(word in str(from_write.value) for word in [name, *words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "side"), [("out.webp", 16_383), ("out.jpg", 65_500)])
def test_longest_side_that_is_not_refused_is_written(tmp_path: Path, name: str, side: int) -> None:
    write_image(tmp_path / name, np.zeros((1, side, 3), np.uint8))
    assert read_image(tmp_path / name).rgb.shape == (1, side, 3)


def test_writing_makes_folders_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out.png"
    write_image(path, noise(4, 4, 3, seed=1))
    write_image(path, noise(4, 4, 3, seed=2))
    np.testing.assert_array_equal(read_image(path).rgb, noise(4, 4, 3, seed=2))
    assert list(path.parent.iterdir()) == [path]
    taken = tmp_path / "taken.png"
    taken.mkdir()
    with pytest.raises(OSError):
        write_image(taken, noise(4, 4, 3))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "deep", taken]


def test_older_file_survives_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A second name of the old file keeps its bytes: the new file is another one, not the old one written over."""
    write_image(tmp_path / "out.png", noise(4, 4, 3, seed=1))
    os.link(tmp_path / "out.png", tmp_path / "old.png")
    write_image(tmp_path / "out.png", noise(4, 4, 3, seed=2))
    np.testing.assert_array_equal(read_image(tmp_path / "old.png").rgb, noise(4, 4, 3, seed=1))


# Planning


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def problems(source: Path, target: Path) -> list[str]:
    with pytest.raises(ValueError) as caught:
        plan_outputs(source, target)
    return str(caught.value).split("; ")


def test_images_are_listed_by_suffix(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.png", "sub/deep/c.Jpeg", "sub/d.webp"]
    touch(tmp_path, *wanted, "e.txt", "f.gif", "png", ".hidden.png", ".cache/g.png", "sub/.h/i.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere")
    assert list_images(tmp_path) == sorted(tmp_path / name for name in wanted)
    with pytest.raises(ValueError, match="not a folder"):
        list_images(tmp_path / "a.png")


def test_plans(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b.JPG")
    source, folder = tmp_path / "in", tmp_path / "out"
    file = source / "a.png"
    assert plan_outputs(file, tmp_path / "b.webp") == [(file, tmp_path / "b.webp")]
    both = [(file, folder / "a.png"), (source / "sub/b.JPG", folder / "sub/b.JPG")]
    assert plan_outputs(source, folder) == both
    folder.mkdir()
    assert plan_outputs(source, folder) == both
    assert plan_outputs(file, folder) == both[:1]
    touch(folder, "a.png")
    assert plan_outputs(source, folder) == both  # an older result may be replaced
    assert list(folder.iterdir()) == [folder / "a.png"]


def test_bad_plans_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b.png", "file", "scan.tif")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    source, a = tmp_path / "in", tmp_path / "in/a.png"
    for bad_source, bad_target, words in [
        (tmp_path / "none.png", tmp_path / "x.png", "does not exist"),
        (tmp_path / "empty", tmp_path / "x", "holds no images"),
        (source, source, "both input and output"),
        (source, tmp_path / "link", "both input and output"),
        (a, a, "both input and output"),
        (a, source, "is itself an input"),
        (a, tmp_path / "link", "is itself an input"),
        (source, source / "out", "would lie in the input folder"),
        (source, tmp_path / "link" / "out", "would lie in the input folder"),
        (a, tmp_path / "x.tif", "does not end in"),
        (a, tmp_path / "x", "does not end in"),
        (tmp_path / "scan.tif", tmp_path / "empty", "does not end in"),
        (source, tmp_path / "file", "must be a folder"),
        (a, tmp_path / "file" / "x.png", "must be a folder"),
    ]:
        found = problems(bad_source, bad_target)
        assert len(found) == 1 and words in found[0], found


def test_output_above_the_input_does_not_reach_into_it(tmp_path: Path) -> None:
    touch(tmp_path, "in/in/a.png")
    assert "would lie in the input folder" in problems(tmp_path / "in", tmp_path)[0]


@pytest.mark.parametrize("names", [("a.png", "A.png"), ("\u00e9.png", "e\u0301.png")])
def test_inputs_with_one_output_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """Two cases of a letter, two encodings of an accent."""
    touch(tmp_path / "in", *names)
    if len(list_images(tmp_path / "in")) == 1:
        pytest.skip("this disk does not tell the two names apart")
    assert "would both become" in problems(tmp_path / "in", tmp_path / "out")[0]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    found = problems(tmp_path / "none.png", tmp_path / "file" / "x.tif")
    assert [any(words in line for line in found) for words in ("not exist", "not end in", "be a folder")] == [True] * 3
    touch(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "out/a.png").mkdir(parents=True)
    (tmp_path / "out/b.png").mkdir()
    assert len(problems(tmp_path / "in", tmp_path / "out")) == 2
