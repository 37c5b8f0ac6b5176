"""Sandbox: runs a piece of Python that a model wrote in a process of its own, with limits, and says how it ended.

What it holds: an empty temporary folder that is removed afterwards, an empty environment, `python -I`, limits on
processor time, wall clock, memory, file size, open files and output, no core files, and on Linux, where the kernel lets
an ordinary user do so, a network namespace without any interface and (Landlock, since 5.13) no file but those of its
folder, which it may change, and those of Python and the system, which it may read. The whole process group is killed at
the end.

What it does not hold: it is no barrier against code that means harm. The program runs under the user's own account
and without Landlock can read and write what the user can; without a namespace the network is only closed inside Python;
a process that leaves its group outlives the kill; limits of processor time and memory count per process; Windows has
none of them; a program that walks up the frames of its own process finds the mark of the end and can pretend to have
passed. Run untrusted models in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SHOWN = 2000
"""Characters of output that are kept."""
BOOT = """
import sys
seconds, memory, path = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
try:
    import resource
    for name, value in (("CPU", int(seconds) + 1), ("AS", memory), ("FSIZE", 1 << 24), ("NOFILE", 64), ("CORE", 0)):
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
except (ImportError, ValueError, OSError):
    pass
alone = False
if sys.platform == "linux":
    import ctypes
    alone = ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0
if not alone:
    import socket
    def refused(*_, **__):
        raise OSError("no network in the sandbox")
    socket.socket = socket.create_connection = socket.getaddrinfo = refused
def shut():
    # Landlock, where the kernel has it; its system calls have the same numbers on every machine.
    import ctypes, os, struct
    kernel = ctypes.CDLL(None)
    def call(*given):
        return kernel.syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in given))
    version = call(444, None, 0, 1)
    if version < 1:
        return
    every = (1 << (13 + min(version - 1, 2))) - 1
    read, change = 1 | 4 | 8, 2 | 4
    wanted = struct.pack("Q", every)
    rules = call(444, wanted, len(wanted), 0)
    system = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/sys/devices/system"]
    system += ["/proc/self", "/proc/cpuinfo", "/proc/meminfo"]  # others' environments hold tokens
    python = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path]
    devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
    allowed = [(os.getcwd(), every), *((p, read) for p in (*system, *python)), *((p, change) for p in devices)]
    for place, rights in allowed:
        try:
            beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = rights if os.path.isdir(place) else rights & (1 | change)
        call(445, rules, 1, struct.pack("=Qi", rights, beneath), 0)
        os.close(beneath)
    kernel.prctl(38, 1, 0, 0, 0)
    call(446, rules, 0)
    os.close(rules)
with open(path, encoding="utf-8") as file:
    program = compile(file.read(), "program.py", "exec")
if sys.platform == "linux":
    shut()
def run():
    import os
    mark = sys.stdin.readline()
    silent = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silent, 0)
    os.close(silent)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.argv = sys.orig_argv = ["program.py"]
    write = os.write
    exec(program, {"__name__": "__main__"})
    sys.stdout.flush()
    sys.stderr.flush()
    write(2, mark.encode())
run()
"""
"""Sets the limits from inside: they hold for the program that follows in the same process, and forking a child of a
process with threads needs no code of ours between fork and exec. The mark that proves that the program came to its end
arrives over stdin and is known to one frame alone: it stands in no argument, variable of a module, or file."""


class Ended(StrEnum):
    """How a program ended."""

    PASSED = "passed"
    """It came to its end without an error."""
    FAILED = "failed"
    """It raised, left early, or was stopped by a limit other than time."""
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of a program."""

    ended: Ended
    output: str
    """The end of what it wrote to stdout and stderr."""


def run_python(source: str, *, seconds: float = 10.0, memory_mb: int = 1024) -> Ran:
    """Runs a program; it has passed when it reached its last line without an exception.

    Leaving early with `sys.exit(0)` or `os._exit(0)` is not passing: the mark at the end is missing then.
    """
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="temper-sandbox-") as folder:
        program, output = Path(folder, "program.py"), Path(folder, "output")
        program.write_text(source, encoding="utf-8", errors="replace")
        work = Path(folder, "work")
        work.mkdir()
        arguments = [str(seconds), str(memory_mb << 20), str(program)]
        with output.open("wb") as stream:
            process = _start(arguments, work, stream.fileno())
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError), process.stdin as told:
                    told.write(mark.encode() + b"\n")
                process.wait(timeout=seconds)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                _kill(process)
        said = output.read_bytes()[-SHOWN:].decode("utf-8", errors="replace")
    if late:
        return Ran(ended=Ended.TIMEOUT, output=said)
    passed = process.returncode == 0 and said.endswith(mark + "\n")
    return Ran(ended=Ended.PASSED if passed else Ended.FAILED, output=said.removesuffix(mark + "\n"))


def _start(arguments: list[str], work: Path, output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-X", "utf8", "-c", BOOT, *arguments], cwd=work, stdin=subprocess.PIPE,
        stdout=output, stderr=output, env={"HOME": str(work), "TMPDIR": str(work)}, start_new_session=True,
    )  # fmt: skip


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and what it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
