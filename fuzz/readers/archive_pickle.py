"""The pickle inside a PyTorch archive, whose checksum would hide a broken byte.

Every branch of torch's weights_only unpickler guides the fuzzer.
"""

import io
import zipfile

from fuzz.readers.archive import corpus as archives
from fuzz.readers.archive import read as read_archive


def corpus() -> list[bytes]:
    return [zipfile.ZipFile(io.BytesIO(whole)).read("archive/data.pkl") for whole in archives()]


def read(case: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as whole:
        whole.writestr("archive/data.pkl", case)
        whole.writestr("archive/byteorder", b"little")
        for number in range(3):
            whole.writestr(f"archive/data/{number}", bytes(72))
        whole.writestr("archive/version", b"3\n")
    read_archive(file.getvalue())
