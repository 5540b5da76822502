"""Save rows to a folder once, with hashes; read them back unchanged or refuse them. No torch.

train.jsonl and heldout.jsonl have the rows; data.json has the request that made them, the SHA-256 of both
files and the caller's counts. A folder of pictures may be saved with them; the caller verifies those.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rl_nmt.errors import CannotWrite, ConfigError

FILES = ("train.jsonl", "heldout.jsonl")


class OtherRequest(ConfigError):
    """The folder has the rows of another request."""


class Sealed(NamedTuple):
    """The contents of the folder. sha256: over the hashes of both files."""

    train: list[Any]
    heldout: list[Any]
    sha256: str
    counts: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The sealed rows of one request."""

    folder: Path  # where they are saved; a link to an empty folder stays a link
    request: dict[str, Any]  # everything that determines the rows; JSON
    argument: str  # the setting that names the folder above, for messages

    @property
    def exists(self) -> bool:
        return (self.folder / "data.json").exists()

    def write(
        self,
        train: list[dict[str, Any]],
        heldout: list[dict[str, Any]],
        counts: dict[str, Any],
        pictures: Path | None = None,
    ) -> Sealed:
        """Write the three files next to the folder, rename them into place together and read them back.

        The folder `pictures`, with files that rows name, is moved into the snapshot under its own name. If another
        process was faster, its rows are read. Raises CannotWrite, and ConfigError like `read`.
        """
        place = self.folder.resolve()
        contents = ["".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) for rows in (train, heldout)]
        files = dict(zip(FILES, map(str.encode, contents), strict=True))
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        seal = {"request": self.request, "sha256": hashes, "counts": counts}
        files["data.json"] = json.dumps(seal, indent=1, ensure_ascii=False).encode()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
                stage = Path(scratch, "data")
                stage.mkdir()
                for name, data in files.items():
                    (stage / name).write_bytes(data)
                if pictures:
                    shutil.move(pictures, stage / pictures.name)
                os.replace(stage, place)
        except OSError as error:
            if not self.exists:
                message = f"{self.argument}: cannot write {self.folder} ({error.strerror}); name another folder"
                raise CannotWrite(message) from error
        return self.read()

    def read(self) -> Sealed:
        """Return the rows. Raises OtherRequest if they are of another request, ConfigError if they are damaged."""
        elsewhere = f"name another {self.argument}, or remove the folder to read the rows again"
        try:
            seal = json.loads((self.folder / "data.json").read_text(encoding="utf-8"))
            before, hashes, counts = seal["request"], {name: seal["sha256"][name] for name in FILES}, seal["counts"]
            different = [name for name in self.request if before.get(name) != self.request[name]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.argument}: {self.folder / 'data.json'} cannot be read; {elsewhere}") from error
        if different:
            changes = ", ".join(f"{n} was {before.get(n)!r} and is now {self.request[n]!r}" for n in different)
            raise OtherRequest(
                f"{self.argument}: {self.folder} has the data of other settings ({changes}); {elsewhere}"
            )
        splits: list[list[Any]] = []
        for name in FILES:
            try:
                data = (self.folder / name).read_bytes()
            except OSError as error:
                problem = f"{self.folder / name} cannot be read ({error.strerror})"
                raise ConfigError(f"{self.argument}: {problem}; {elsewhere}") from error
            if hashlib.sha256(data).hexdigest() != hashes[name]:
                problem = f"{self.folder / name} was changed after it was written (SHA-256)"
                raise ConfigError(f"{self.argument}: {problem}; {elsewhere}")
            splits.append([json.loads(line) for line in data.decode().split("\n") if line])
        return Sealed(splits[0], splits[1], hashlib.sha256("".join(hashes.values()).encode()).hexdigest(), counts)
