"""A bus for each test, and a program on it that does what it is told."""

import faulthandler
import pathlib
import subprocess
import sys

import pytest

# What hangs ends with a trace.
faulthandler.dump_traceback_later(120, exit=True)


@pytest.fixture(autouse=True)
def bus(tmp_path, monkeypatch):
    """The default bus of the test and of what it starts."""
    monkeypatch.setenv("BUS1_PATH", str(tmp_path / "bus"))


class Other:
    """tests/other.py in a process of its own."""

    def __init__(self, *arguments):
        script = pathlib.Path(__file__).with_name("other.py")
        self.process = subprocess.Popen([sys.executable, str(script), *arguments])

    def ended(self):
        """Its exit status."""
        return self.process.wait(timeout=60)


@pytest.fixture
def other():
    """Starts such programs; none of them outlives the test."""
    started = []

    def start(*arguments):
        started.append(Other(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
