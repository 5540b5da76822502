"""Read the pictures of rows from paths or bytes, and keep them in a folder, named by their hash. No torch."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_nmt.data.snapshot import Sealed, Snapshot
from rl_nmt.errors import ConfigError, describe
from rl_nmt.files import cannot_write

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow would start other programs for some of the others
MOST_PIXELS = 64_000_000  # Gemma 3 sees 896 × 896; Pillow warns from 89 million on
FOLDER = "images"  # in the folder of a snapshot
STARTS = {  # of files that are often found in place of a picture
    b"version https://git-lfs": "it is a Git LFS pointer; fetch the picture with git lfs pull",
    b"%PDF": "it is a PDF",
    b"<": "it is HTML, SVG or XML",
    b"{": "it is JSON",
    b"PK": "it is a ZIP archive",
}


def keep_pictures(value: Any, where: str, base: Path | None, folder: Path) -> list[str]:
    """Write the pictures of a cell to `folder`, unchanged; return their names: 16 digits of SHA-256 and the format.

    A cell holds one or a list of: a path, absolute or relative to the folder `base`; bytes; a data URL; {"bytes": …,
    "path": …}. None, empty texts and empty structs are no pictures. Without `base` paths are refused. `where`: the row,
    for messages.

    Raises ConfigError for a missing file and for anything but a whole picture in one of FORMATS; OSError where it
    cannot be written.
    """
    values = value if isinstance(value, list) else [value]
    empty = ({"bytes": None, "path": None}, None, "")
    return [_keep(each, where, base, folder) for each in values if each not in empty]


def _keep(value: Any, where: str, base: Path | None, folder: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    shown, data = _read(value, where, base)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{picture.format.lower()}"
            if path.exists():
                return path.name
            if picture.width * picture.height > MOST_PIXELS:
                raise ConfigError(f"{where}: {shown} has {picture.width} × {picture.height} pixels; scale it down")
            if picture.mode in ("I", "F"):
                raise ConfigError(f"{where}: {shown} has 32 bits a pixel ({picture.mode}); save it with 8 or 16")
            picture.load()
    except UnidentifiedImageError as error:
        start = data.lstrip()
        found = next(
            (text for first, text in STARTS.items() if start.startswith(first)), f"it begins with {data[:8]!r}"
        )
        found = found if start else "it is empty"
        raise ConfigError(f"{where}: {shown} is not a picture ({', '.join(FORMATS)}): {found}") from error
    except ConfigError:
        raise
    except Exception as error:  # Pillow raises many classes
        raise ConfigError(f"{where}: {shown} is a damaged picture ({describe(error)}); replace it") from error
    path.write_bytes(data)
    return path.name


def _read(value: Any, where: str, base: Path | None) -> tuple[str, bytes]:
    """Return a picture's name for messages and its bytes."""
    shown = "its image"
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return shown, base64.b64decode(value.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ConfigError(
                f"{where}: {shown} is a data URL, but not of base64 ({error}); encode it again"
            ) from error
    if isinstance(value, str):
        if base is None:
            raise ConfigError(
                f"{where}: {shown} is the path {value}, not a picture; download the data set with its files"
            )
        path = base / Path(value).expanduser()
        try:
            return f"image {value}", path.read_bytes()
        except (OSError, ValueError) as error:  # the latter for a path with a zero
            reason = f"cannot be read from {path} ({getattr(error, 'strerror', error)})"
            raise ConfigError(f"{where}: image {value} {reason}; correct the path, or remove the row") from error
    if not isinstance(value, bytes):
        kind = type(value).__name__
        raise ConfigError(f"{where}: {shown} is {kind}; give a path, bytes, a data URL or {{'bytes': …, 'path': …}}")
    return shown, value


def sealed(snapshot: Snapshot, read: Callable[[Path], tuple[list[dict], list[dict]]]) -> Sealed:
    """Return a snapshot of rows whose "images" are names of pictures in its folder "images".

    If it does not exist yet, it gets the rows that `read` returns, to train on and held out; `read` must keep their
    pictures in the folder that it is given. Raises ConfigError for changed or missing files; CannotWrite.
    """
    if not snapshot.exists:
        above = snapshot.folder.parent
        try:
            above.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=above, prefix=f".{FOLDER}.") as scratch:
                (images := Path(scratch, FOLDER)).mkdir()
                train, heldout = read(images)
                for name in {path.name for path in images.iterdir()} - _names(train + heldout):
                    (images / name).unlink()
                snapshot.write(train, heldout, {}, images)
        except OSError as error:
            raise cannot_write(snapshot.folder, error, snapshot.argument) from error
    found = snapshot.read()
    require_pictures(_names(found.train + found.heldout), snapshot.folder / FOLDER, snapshot.argument)
    return found


def _names(rows: Iterable[dict]) -> set[str]:
    return {name for row in rows for name in row["images"]}


def require_pictures(names: Iterable[str], folder: Path, argument: str) -> None:
    """Raise ConfigError, with `argument`, unless all of these are in `folder` with the bytes that gave their name."""
    for name in sorted(set(names)):
        path, problem = folder / name, "was changed after it was written (SHA-256)"
        try:
            whole = hashlib.sha256(path.read_bytes()).hexdigest()[:16] == path.stem
        except OSError as error:
            whole, problem = False, f"cannot be read ({error.strerror})"
        if not whole:
            raise ConfigError(
                f"{argument}: {path} {problem}; name another {argument}, or remove {folder.parent} to read rows again"
            )


def looks_like_picture(value: Any) -> bool:
    """Return whether a cell may hold a picture: bytes, a struct with bytes, a data URL, a path with a usual ending.

    >>> looks_like_picture("a/b.PNG"), looks_like_picture(["x.jpg"]), looks_like_picture("no picture.")
    (True, True, False)
    """
    value = value[0] if isinstance(value, list) and value else value
    if isinstance(value, str):
        ends = tuple(".png .jpg .jpeg .webp .gif".split())
        return value.startswith("data:image/") or (" " not in value and value.lower().endswith(ends))
    return isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value)


def open_picture(path: Path) -> Image:
    """Return a picture as RGB, turned as its EXIF orientation says, on white where it is transparent.

    Of several frames it is the first; 16-bit grey becomes 8-bit. Raises ConfigError if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):  # Pillow would make every value above 255 white
                import numpy as np

                picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except Exception as error:  # Pillow raises many classes
        raise ConfigError(f"{path} cannot be read as a picture ({describe(error)})") from error
