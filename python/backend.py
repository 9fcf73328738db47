"""Builds the wheel of the package `bus1` for pip (PEP 517). Needs nothing but Python.

If tools/build-library has been run, libbus1.so goes into the wheel; else the package finds the one
that is installed (see bus1/_library.py).
"""

import base64
import hashlib
import pathlib
import re
import sysconfig
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent
BUILT = TREE / ".build" / "library" / "lib" / "libbus1.so.0"


def _version():
    header = TREE / "Sources" / "CBus1" / "include" / "bus1.h"
    return re.search(r'^#define BUS1_VERSION "(.*)"$', header.read_text(), re.M).group(1)


def _contents():
    """What goes into the wheel: names and bytes."""
    files = {
        f"bus1/{path.name}": path.read_bytes() for path in sorted((HERE / "bus1").glob("*.py"))
    }
    if BUILT.exists():
        files["bus1/libbus1.so.0"] = BUILT.read_bytes()
    return files


def _metadata():
    return (
        "Metadata-Version: 2.1\nName: bus1\n"
        f"Version: {_version()}\n"
        "Summary: capability-based IPC through shared memory\n"
        "License: Apache-2.0\nRequires-Python: >=3.9\n"
    ).encode()


def _tag():
    if not BUILT.exists():
        return "py3-none-any"
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _write(path, files, info):
    files[f"{info}/METADATA"] = _metadata()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: bus1\nRoot-Is-Purelib: {str(not BUILT.exists()).lower()}\n"
        f"Tag: {_tag()}\n"
    ).encode()
    record = ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(data)}\n"
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"bus1-{_version()}-{_tag()}.whl"
    _write(pathlib.Path(wheel_directory) / name, _contents(), f"bus1-{_version()}.dist-info")
    return name


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("the package is installed from the source tree: pip install ./python")
