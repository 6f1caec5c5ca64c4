import io
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.images import AS_GIVEN_VERSION, TRANSFORM_VERSION, PixelFormat, flatten, normalise
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats import choosing
from mnist_pipeline.datasets.formats.files import FileSplit
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DataError, ImagesError, LabelError
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import write_location
from tests.builders import random_images, random_labels
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server

ROWS = 23
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
PIXELS = flatten(normalise(IMAGES))
NAMES = np.array([f"scan-{row:02}é" for row in range(ROWS)])
KERAS: dict[str, Any] = {"x_train": IMAGES[::-1][:7], "y_train": LABELS[::-1][:7], "x_test": IMAGES, "y_test": LABELS}
DEFLATED = zipfile.ZIP_DEFLATED
SAVERS: dict[str, Callable[..., None]] = {"stored": np.savez, "deflated": np.savez_compressed}


def archive(saver: str = "stored", **arrays: Any) -> bytes:
    """The content of an .npz file."""
    stream = io.BytesIO()
    SAVERS[saver](stream, **arrays)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """The content of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def opened(folder: Location, content: bytes, name: str = "a.npz", **wanted: Any) -> OpenSplit:
    write_location(folder / name, content)
    return choosing.open_images("mine", folder / name, Wanted(**wanted))


def saved(folder: Location, saver: str = "stored", wanted: dict[str, Any] | None = None, **arrays: Any) -> OpenSplit:
    return opened(folder, archive(saver, **arrays), **(wanted or {}))


def read(split: OpenSplit, size: int = 10) -> tuple[NDArray[Any], NDArray[Any] | None, list[str] | None]:
    """All pixels, labels and names."""
    pixels, labels = [], []
    names: list[str] = []
    for rows in split.read(cut(split.rows, size)):
        pixels.append(rows.pixels.copy())  # the next overwrites them
        labels += [] if rows.labels is None else [rows.labels]
        names += [] if rows.keys is None else rows.keys.to_pylist()
    return np.concatenate(pixels), np.concatenate(labels) if labels else None, names or None


# What is read


@pytest.mark.parametrize("saver", SAVERS)
def test_the_split_chooses_the_arrays_of_keras(saver: str, tmp_path: Path) -> None:
    for split, some in {"test": slice(None), "train": slice(None, None, -1)}.items():
        found = saved(tmp_path, saver, {"split": split}, **KERAS)
        rows = len(KERAS[f"x_{split}"])
        pixels, labels, names = read(found)
        np.testing.assert_array_equal(pixels, PIXELS[some][:rows], strict=True)
        np.testing.assert_array_equal(labels, LABELS[some][:rows].astype(np.int8), strict=True)
        assert names is None


@pytest.mark.parametrize("saver", SAVERS)
def test_a_bucket_gives_the_same_in_any_parts(saver: str, bucket: Address) -> None:
    names = np.array([f"{row}" * 200 for row in range(ROWS)])
    split = saved(bucket, saver, {"id_column": "ids"}, ids=names, **KERAS)
    split = pickle.loads(pickle.dumps(split))
    for size in (1, 7, ROWS):
        pixels, labels, keys = read(split, size)
        np.testing.assert_array_equal(pixels, PIXELS, strict=True)
        np.testing.assert_array_equal(labels, LABELS.astype(np.int8), strict=True)
        assert keys == names.tolist()


@pytest.fixture(scope="module", params=SAVERS)
def long_split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenSplit:
    """3,000 images, each with its number in its first two pixels and as its name."""
    images = np.zeros((3000, 784), np.uint8)
    images[:, 0], images[:, 1] = np.divmod(np.arange(3000), 256)
    arrays: dict[str, Any] = {"images": images, "labels": np.arange(3000) % 10, "id": np.arange(3000)}
    return saved(tmp_path_factory.mktemp("long"), request.param, {"id_column": "id"}, **arrays)


@given(ends=st.lists(st.integers(0, 3000), min_size=2, max_size=8, unique=True).map(sorted))
def test_any_ranges_are_those_rows(long_split: OpenSplit, ends: list[int]) -> None:
    ranges = [RowRange(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=False)]
    for expected, found in zip(ranges, long_split.read(ranges), strict=True):
        rows = np.arange(expected.start, expected.stop)
        numbers = np.rint(found.pixels[:, :2] * 255) @ [256, 1]
        np.testing.assert_array_equal(numbers, rows)
        np.testing.assert_array_equal(found.labels, rows % 10)
        assert found.keys is not None
        assert found.keys.to_pylist() == [str(row) for row in rows]


def test_stored_arrays_can_be_entered_and_deflated_ones_cannot(tmp_path: Path) -> None:
    images = np.zeros((2500, 784), np.uint8)
    assert saved(tmp_path, "stored", images=images).decoded_from(2499) == 2000
    assert saved(tmp_path, "deflated", images=images).decoded_from(2499) == 0
    assert opened(tmp_path, npy(images), "a.npy").decoded_from(2499) == 2000


@pytest.mark.parametrize("shape", [(ROWS, 28, 28), (ROWS, 784), (ROWS, 28, 28, 1), (ROWS, 1, 28, 28)])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int64", "<f2", ">f4", "float64"])
def test_any_numbers_of_any_such_shape_are_read(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    floats = "f" in dtype
    images = (IMAGES / 255 if floats else IMAGES).astype(dtype).reshape(shape)
    split = saved(tmp_path, arr_0=images, arr_1=LABELS.reshape(-1, 1).astype(">i4"))
    pixels, labels, _ = read(split)
    expected = images.reshape(ROWS, 784).astype(np.float32) if floats else PIXELS
    np.testing.assert_array_equal(pixels, expected, strict=True)
    np.testing.assert_array_equal(labels, LABELS.astype(np.int8), strict=True)
    assert split.transform_version == (AS_GIVEN_VERSION if floats else TRANSFORM_VERSION)


@pytest.mark.parametrize("scale", [None, 1])
def test_bool_is_paper_and_full_ink(scale: Any, tmp_path: Path) -> None:
    bits = IMAGES > 127
    for content, name in ((archive(images=bits), "a.npz"), (npy(bits), "b.npy")):
        pixels, _, _ = read(opened(tmp_path, content, name, pixel_format=PixelFormat(scale=scale)))
        np.testing.assert_array_equal(pixels, flatten(bits).astype(np.float32), strict=True)
    saved_wrong = opened(tmp_path, npy(bits[:1])[:-1] + b"\2", "c.npy", pixel_format=PixelFormat(scale=scale))
    with pytest.raises(ImagesError, match=r"c.npy: row 0: expected pixels in 0..1, got 2.0 at pixel 783"):
        read(saved_wrong)


def test_what_the_pixels_mean_is_said_by_the_settings(tmp_path: Path) -> None:
    columns = np.ascontiguousarray(255 - IMAGES.swapaxes(1, 2)).astype(np.float32)
    meant = PixelFormat(scale=255, inverted=True, transposed=True)
    pixels, _, _ = read(saved(tmp_path, wanted={"pixel_format": meant}, images=columns))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)


def test_the_settings_name_the_arrays(tmp_path: Path) -> None:
    arrays: dict[str, Any] = KERAS | {"mine": IMAGES[:5], "truth": LABELS[:5], "files": NAMES[:5]}
    wanted = {"image_column": "mine", "label_column": "truth", "id_column": "files"}
    split = saved(tmp_path, wanted=wanted, **arrays)
    pixels, labels, names = read(split)
    np.testing.assert_array_equal(pixels, PIXELS[:5])
    np.testing.assert_array_equal(labels, LABELS[:5])
    assert names == NAMES[:5].tolist()
    assert split.keys_from == "files"


@pytest.mark.parametrize("dtype", ["<U9", ">U9", "S10", "int16", ">u8"])
def test_names_are_texts_or_integers(dtype: str, tmp_path: Path) -> None:
    texts = NAMES.tolist() if "U" in dtype or "S" in dtype else [str(row) for row in range(ROWS)]
    values = np.array([text.encode() for text in texts] if "S" in dtype else texts).astype(dtype)
    assert read(saved(tmp_path, wanted={"id_column": "ids"}, x=IMAGES, ids=values))[2] == texts


def test_what_identifies_the_images_is_the_array_unless_it_is_the_only_one(tmp_path: Path) -> None:
    alone = saved(tmp_path, images=IMAGES)
    assert isinstance(alone, FileSplit)
    assert alone.images_sha256 == alone.files_sha256
    named = saved(tmp_path, wanted={"image_column": "images"}, images=IMAGES)
    assert named.images_sha256 == alone.images_sha256
    both = [saved(tmp_path, wanted={"split": split}, **KERAS) for split in ("test", "train")]
    assert len({split.images_sha256 for split in both}) == len({split.labels_sha256 for split in both}) == 2


def test_images_without_labels_have_none(tmp_path: Path) -> None:
    for split in (
        opened(tmp_path, archive(images=IMAGES, seconds=np.arange(ROWS)), "a.npz"),
        opened(tmp_path, archive(**KERAS), "b.npz", label_column="none"),
        opened(tmp_path, npy(IMAGES), "c.npy"),
    ):
        pixels, labels, _ = read(split)
        assert (labels, split.labels_sha256) == (None, None)
        np.testing.assert_array_equal(pixels, PIXELS, strict=True)


def test_the_labels_are_the_only_array_of_one_integer_an_image_that_is_called_so(tmp_path: Path) -> None:
    others: dict[str, Any] = {"train_labels": LABELS[:4], "one_hot_labels": np.eye(10)[LABELS], "id": np.arange(ROWS)}
    np.testing.assert_array_equal(read(saved(tmp_path, X=IMAGES, Y=LABELS, **others))[1], LABELS)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "U3"])
def test_labels_may_be_floats_or_texts_of_digits(dtype: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(saved(tmp_path, images=IMAGES, labels=LABELS.astype(dtype)))[1], LABELS)


def test_a_folder_of_files_is_one_split(tmp_path: Path) -> None:
    for name, some in {"a": slice(9), "b": slice(9, ROWS)}.items():
        saver = "stored" if name == "a" else "deflated"
        (tmp_path / f"{name}.npz").write_bytes(archive(saver, images=IMAGES[some], labels=LABELS[some]))
    pixels, labels, _ = read(choosing.open_images("mine", tmp_path, Wanted()))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    np.testing.assert_array_equal(labels, LABELS)
    (tmp_path / "c.npz").write_bytes(archive(images=IMAGES.astype(np.float32)))
    message = "c.npz: expected 'images' of uint8 and 'labels', as in .*a.npz, got 'images' of float32 and no labels; "
    with pytest.raises(DataError, match=message):
        choosing.open_images("mine", tmp_path, Wanted())


def test_column_major_arrays_of_one_axis_are_like_any_others(tmp_path: Path) -> None:
    labels = npy(LABELS).replace(b"'fortran_order': False", b"'fortran_order': True ")  # as Julia writes them
    split = opened(tmp_path, zipped({"images.npy": npy(IMAGES), "labels.npy": labels, "notes.txt": b"?"}))
    np.testing.assert_array_equal(read(split)[1], LABELS)


# What is refused


def header(**changes: Any) -> bytes:
    """An array of 23 images whose header says something else."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (ROWS, 784)} | changes
    )
    return stream.getvalue() + IMAGES.tobytes()


OBJECTS = np.array([*IMAGES[:2], None], object)
CHOICES: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"x_train": IMAGES}, {}, ImagesError, "expected the images of the split in 'x_test', got 'x_train'; name their s"),
    ({"a": IMAGES, "b": IMAGES}, {}, ImagesError, "expected one array of images, got 'a', 'b'; name the one that is m"),
    ({"a": LABELS}, {}, ImagesError, "expected an array of images, [N, 28, 28] or [N, 784] numbers, got 'a: uint8 [23"),
    ({"x_test": OBJECTS}, {}, ImagesError, "array 'x_test': expected [N, 28, 28] or [N, 784] numbers, got 'pickled ob"),
    ({"x": OBJECTS}, {}, ImagesError, "expected an array of images, [N, 28, 28] or [N, 784] numbers, got 'x: pickled "),
    ({"x_test": np.zeros((2, 32, 32))}, {}, ImagesError, "got 'float64 [2, 32, 32]'; only images of 28x28 pixels are "),
    ({"x_test": np.zeros((2, 784), complex)}, {}, ImagesError, "got 'complex128 [2, 784]'; save integers, float32 or "),
    ({"x_test": np.asfortranarray(IMAGES)}, {}, ImagesError, "expected image after image, got column-major (Fortran) "),
    (KERAS, {"image_column": "c"}, ImagesError, "expected images in an array 'c', [N, 28, 28] or [N, 784] numbers, go"),
    (KERAS, {"image_column": "y_test"}, ImagesError, "array 'y_test': expected [N, 28, 28] or [N, 784] numbers, got '"),
    ({"x": IMAGES[:0]}, {}, DataError, "expected at least one image, got none; give a data set with images"),
    ({"x": IMAGES, "y": LABELS, "labels": LABELS}, {}, LabelError, "expected one array of labels, got 'y', 'labels'; "),
    ({"x": IMAGES, "y": np.eye(10)[LABELS]}, {}, LabelError, "got 'float64 [23, 10]'; store numpy.argmax(labels, axis"),
    ({"x": IMAGES, "y": LABELS > 5}, {}, LabelError, "array 'y': expected [N] digits 0-9, got 'bool [23]'; store inte"),
    ({"x": IMAGES, "y": LABELS + 0.5}, {}, LabelError, "a.npz: row 0: expected a label 0-9, got "),
    ({"x": IMAGES, "y": LABELS[1:]}, {}, LabelError, "array 'y': expected 23 labels, one for each image of 'x', got 2"),
    ({"x_test": IMAGES, "y_train": LABELS}, {}, LabelError, "expected the labels in an array 'y_test', got none, but "),
    (KERAS, {"label_column": "c"}, LabelError, "expected the labels in an array 'c', got none, but 'x_train', 'y_trai"),
    ({"x": IMAGES, "y": LABELS + 9}, {}, LabelError, "a.npz: row 0: expected a label 0-9, got "),
    (KERAS, {"id_column": "c"}, DataError, "expected the images' own names in an array 'c', got none, but 'x_train', "),
    (KERAS, {"id_column": "y_test"}, DataError, "expected labels and the images' own names in two columns, got 'y_t"),
    (KERAS, {"id_column": "x_test"}, DataError, "array 'x_test': expected [N] texts of at most 1024 characters, or in"),
    (KERAS, {"id_column": "y_train"}, DataError, "array 'y_train': expected 23 names, one for each image of 'x_test',"),
    ({"x": IMAGES[:1], "i": np.array(["a" * 1025])}, {"id_column": "i"}, DataError, "got '<U1025 [1]'; name another a"),
    ({"x": IMAGES[:1], "i": np.array([b"\xff"])}, {"id_column": "i"}, DataError, "row 0: expected the image's own nam"),
    ({"x": IMAGES[:1], "i": np.array(["\ud800"])}, {"id_column": "i"}, DataError, "row 0: expected the image's own na"),
    ({f"a{number}": LABELS for number in range(101)}, {}, DataError, "expected at most 100 arrays, got 101; save all "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arrays", "wanted", "error", "message"), CHOICES, ids=[message[:40] for *_, message in CHOICES]
)
def test_arrays_that_do_not_say_what_they_are_are_refused(
    arrays: dict[str, Any], wanted: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        read(saved(tmp_path, wanted=wanted, **arrays))
    assert type(caught.value) is error


FIELDS = {"flags": (8, 2), "crc": (16, 4), "stored": (20, 4), "size": (24, 4)}  # of a member in the directory of a zip


def lying(content: bytes, **fields: int) -> bytes:
    """An archive whose directory says something else of its last member."""
    changed, entry = bytearray(content), content.rindex(b"PK\1\2")
    for name, value in fields.items():
        offset, width = FIELDS[name]
        changed[entry + offset : entry + offset + width] = value.to_bytes(width, "little")
    return bytes(changed)


def twice() -> bytes:
    content = zipped({"a.npy": npy(IMAGES), "b.npy": npy(IMAGES)})
    return content.replace(b"b.npy", b"a.npy")


ONE = zipped({"images.npy": npy(IMAGES)})
MILLION = header(shape=(10**6, 784))
SIZE = 784_000_128
BROKEN = {
    "no archive": (b"PK" + bytes(100), "expected a whole NPZ file, got File is not a zip file; replace it"),
    "empty": (b"", "expected a whole NPZ file, got File is not a zip file"),
    "truncated": (ONE[:-30], "expected a whole NPZ file, got File is not a zip file"),
    "no array": (zipped({"images.npy": b"hello"}), "'images': expected an array as NumPy saves it, got "),
    "no header": (zipped({"images.npy": npy(IMAGES)[:40]}), "'images': expected an array as NumPy saves it, got "),
    "huge header": (zipped({"i.npy": b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(20_000)}), "'i': expected an array as"),
    "deep header": (zipped({"i.npy": b"\x93NUMPY\1\0\x88\x13" + b"(" * 5000}), "'i': expected an array as NumPy sa"),
    "negative": (zipped({"i.npy": header(shape=(-1, 784))}), "'i': expected an array as NumPy saves it, got 'no shape"),
    "more announced": (zipped({"i.npy": MILLION}), f"'i': expected {SIZE} bytes for 'uint8 [1000000, 784]', got 18160"),
    "less announced": (zipped({"i.npy": header(shape=(3, 784))}), "'i': expected 2480 bytes for 'uint8 [3, 784]', got"),
    "stored bomb": (lying(zipped({"i.npy": MILLION}), stored=SIZE, size=SIZE), "'i': expected at most 18268 bytes in "),
    "deflated bomb": (lying(zipped({"i.npy": MILLION}, DEFLATED), size=SIZE), "got 784000128 by its directory; replac"),
    "deflated, less": (lying(zipped({"i.npy": header(shape=(99, 784))}, DEFLATED), size=77744), "that ends before row"),
    "deflated, other": (lying(zipped({"i.npy": npy(IMAGES)}, DEFLATED), crc=7), "whole NPZ file, got Bad CRC-32 for f"),
    "deflated, damaged": (archive("deflated", i=IMAGES).replace(b"\x78", b"\x77"), "expected a whole NPZ file, got "),
    "two of a name": (twice(), "expected arrays of different names, got several of 'a'; save the file again"),
    "encrypted": (lying(ONE, flags=1), "expected arrays that can be read without a password, got encrypted ones"),
    "bzip2": (zipped({"i.npy": npy(IMAGES)}, zipfile.ZIP_BZIP2), "expected arrays that are stored or deflated, got an"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_as_numpy_saves_it_is_refused(kind: str, tmp_path: Path) -> None:
    content, message = BROKEN[kind]
    with pytest.raises(DataError, match=f"{tmp_path / 'a.npz'}: .*{re.escape(message)}") as caught:
        read(opened(tmp_path, content))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("content", [npy(IMAGES)[:-1], npy(IMAGES) + b"?", npy(LABELS), npy(IMAGES)[:7], b""])
def test_an_npy_file_that_is_not_one_of_images_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.npy: "):
        opened(tmp_path, content, "a.npy")


@given(st.sampled_from(sorted(SAVERS)), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4))
def test_any_other_bytes_are_read_or_refused(saver: str, where: int, other: bytes) -> None:
    content = archive(saver, images=IMAGES[:2] % 3, labels=LABELS[:2])
    where %= len(content)
    with tempfile.TemporaryDirectory() as folder, suppress(DataError):
        read(opened(Path(folder), content[:where] + other + content[where + len(other) :]))


@pytest.mark.parametrize("saver", SAVERS)
def test_a_file_that_changes_while_it_is_read_is_refused(saver: str, bucket: Address, tmp_path: Path) -> None:
    images = random_images(4000)
    for folder in (bucket, tmp_path):
        rows = saved(folder, saver, images=images).read(cut(4000, 500))
        next(rows)
        other = archive(saver, images=images[:3999])
        if folder == tmp_path:
            (tmp_path / "a.npz").write_bytes(other)  # into the open file
        else:
            write_location(folder / "a.npz", other)
        with pytest.raises(DataError, match=r"a.npz: expected the file that was verified, got one changed since"):
            list(rows)
