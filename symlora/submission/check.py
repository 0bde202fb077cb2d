"""Check whether the GLUE server would take a zip."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from symlora.errors import SymloraError
from symlora.submission.files import HEADER, LINES, File, files

LARGEST = 2**26  # bytes of a file; QQP's has 4 MiB


@dataclass(frozen=True)
class Checked:
    """The contents of a zip."""

    good: tuple[str, ...]  # names of the files that are as they must be
    missing: tuple[str, ...]
    wrong: tuple[str, ...]  # a sentence for each thing that the server would refuse
    lines: int  # of the good files, headers counted

    @property
    def complete(self) -> bool:
        """True if it can be uploaded."""
        return not self.missing and not self.wrong and self.lines == LINES


def check(path: Path) -> Checked:
    """Check names, header, rows, their order and every prediction.

    Raises:
        SymloraError: It is not there, or cannot be read as a zip.
    """
    expected = {file.name: file for file in files()}
    good: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist()]
            wrong = [_stranger(name) for name in names if name not in expected]
            wrong += [f"{name} is there {names.count(name)} times." for name in expected if names.count(name) > 1]
            for name, file in expected.items():
                if names.count(name) != 1:
                    continue
                if archive.getinfo(name).file_size > LARGEST:
                    wrong.append(f"{name} has {archive.getinfo(name).file_size:,} bytes: far too many.")
                elif found := _wrong(file, archive.read(name)):
                    wrong.append(f"{name}: {found}")
                else:
                    good.append(name)
    except FileNotFoundError:
        raise SymloraError(f"{path} is not there. `make submission` writes one.") from None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise SymloraError(f"{path} cannot be read as a zip ({error}). Make it again.") from error
    missing = tuple(name for name in expected if name not in names)
    return Checked(tuple(good), missing, tuple(wrong), sum(expected[name].rows + 1 for name in good))


def _stranger(name: str) -> str:
    if "/" in name or "\\" in name:
        return f"{name} is in a folder, or is one: the files belong at the root of the zip."
    return f"{name} is none of the eleven files."


def _wrong(file: File, content: bytes) -> str:
    """Describe the first thing wrong with a file; empty if nothing is."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        return f"byte {error.start} is no ASCII (a byte order mark?)."
    if not text.endswith("\n"):
        return "the last line has no end: it may be cut off."
    header, *rows = text[:-1].split("\n")
    if header != HEADER:
        return f"the header is {header!r}, not {HEADER!r}."
    if len(rows) != file.rows:
        return f"{len(rows):,} rows, the test split has {file.rows:,}."
    for number, row in enumerate(rows):
        index, _, prediction = row.partition("\t")
        if index != str(number):
            return f"row {number} begins with {index!r}: rows are numbered from 0 in order."
        if not file.accepts(prediction):
            return f"row {number} predicts {prediction!r}; allowed: {file.allowed}."
    return ""
