"""Child processes that end with their parent.

``ProcessGroup`` starts nodes as separate Python processes, keeps each one's log (a file, and its last lines in memory),
notices a child that dies, and ends all of them in order: SIGINT, SIGTERM, SIGKILL, each with a time limit. When the
parent is killed, its children end too. Shared-memory files of Fast DDS that killed children could not remove are
removed, but only those that children of this group had open.

No ROS import here: the parent of the nodes need not be a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.common.shared_memory import open_segments, remove_segments
from fg_depth_ros.resources import module_command

_MODULE = "fg_depth_ros.apps.processes"
TAIL_LINES = 40


class ChildDied(RuntimeError):
    """A child process ended by itself. The message has its last log lines."""


class ChildTimeout(RuntimeError):
    """Something was waited for in vain. The message says what and how long."""


def free_domain_id(low: int = 1, high: int = 101) -> int:
    """Return a ROS domain id whose discovery ports are unused on this machine, drawn at random.

    Port numbers: DDS-RTPS 2.2, section 9.6.1.1 (7400 + 250 domain + 10 + 2 participant). The upper
    limit keeps clear of Linux' ephemeral ports. Raises RuntimeError: no free domain in the range.
    """
    candidates = list(range(low, high + 1))
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        ports = [7400 + 250 * domain + 10 + 2 * participant for participant in range(4)]
        if all(_udp_port_free(port) for port in ports):
            return domain
    raise RuntimeError(f"every ROS domain from {low} to {high} is in use on this machine; end some nodes")


def _udp_port_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def write_parameter_file(path: Path, parameters: Mapping[str, object]) -> Path:
    """Write a ROS parameter file for every node (``/**``), as JSON, which is YAML. Returns ``path``."""
    path.write_text(json.dumps({"/**": {"ros__parameters": dict(parameters)}}, indent=1), encoding="utf-8")
    return path


class Child:
    """One child process: its log file, its last lines, and the shared-memory files it opened."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log_path: Path,
        on_line: Callable[[str], None] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.segments: set[str] = set()
        self._on_line = on_line
        # A session of its own: a terminal's Ctrl-C goes to the whole foreground group; the parent alone decides the
        # order.
        self.process = subprocess.Popen(
            list(command), env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", pass_fds=pass_fds, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log_path.open("w", encoding="utf-8") as log, self.process.stdout as stream:
            for raw in stream:
                line = raw.rstrip("\n")
                log.write(raw)
                log.flush()
                self.tail.append(line)
                if self._on_line is not None:
                    self._on_line(line)

    def drain(self, seconds: float = 2.0) -> None:
        """Wait until the output of the ended child has been read."""
        self._reader.join(seconds)

    def note_segments(self) -> None:
        """Add the shared-memory files of Fast DDS that the child has open now to ``segments``."""
        self.segments |= open_segments(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the child and its own children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def last_lines(self, lines: int = 12) -> str:
        """Return the last log lines, indented, for a message."""
        self.drain(0.5)
        last = [line for line in self.tail if line.strip()][-lines:]
        return "\n".join(f"    {line}" for line in last) if last else "    (it wrote nothing)"


class ProcessGroup:
    """Nodes in separate processes that start and end together. Use as a context manager.

    ``log_dir``: folder for one log file per child, made if it is missing. ``env``: environment of the children; None
    takes this process's, made fit for nodes.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.env = dict(child_environment() if env is None else env)
        self.env.setdefault("ROS_LOG_DIR", str(self.log_dir / "ros"))
        self.env.setdefault("PYTHONUNBUFFERED", "1")
        self.children: list[Child] = []
        self._noted = 0.0
        # Nothing is written to it: the children notice when its writing end is closed.
        self._pipe: tuple[int, int] | None = os.pipe()

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        module: str,
        parameters: Mapping[str, object] | None = None,
        *,
        ros_args: Sequence[str] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> Child:
        """Start ``module`` as a node with these parameters; return at once.

        ``name``: in messages and of the log file; ``ros_args``: further words after ``--ros-args``, as
        ``["-r", "depth:=other"]``; ``on_line`` is called with every line the child writes, from a reader thread.
        """
        arguments = ["--ros-args", *ros_args]
        if parameters:
            path = write_parameter_file(self.log_dir / f"{name}.params.json", parameters)
            arguments += ["--params-file", str(path)]
        return self.start_program(name, module, arguments, on_line=on_line)

    def start_program(
        self, name: str, module: str, arguments: Sequence[str], *, on_line: Callable[[str], None] | None = None
    ) -> Child:
        """Start ``module``, which need not be a node, with these arguments; otherwise as ``start``."""
        if self._pipe is None:
            raise RuntimeError(f"the process group has been stopped; make a new one to start {name}")
        reading = self._pipe[0]
        command = module_command(_MODULE, str(reading), module, *arguments)
        child = Child(name, command, self.env, self.log_dir / f"{name}.log", on_line, (reading,))
        self.children.append(child)
        return child

    def check(self, may_end: Sequence[Child] = ()) -> None:
        """Raise ChildDied if a child ended by itself; children in ``may_end`` may end with code 0."""
        now = time.monotonic()
        if now - self._noted > 0.5:
            self._noted = now
            for child in self.children:
                if child.running:
                    child.note_segments()
        for child in self.children:
            code = child.returncode
            if code is None or (code == 0 and child in may_end):
                continue
            raise ChildDied(
                f"the {child.name} process {_how_it_ended(code)}; its last lines "
                f"(all in {child.log_path}):\n{child.last_lines()}"
            )

    def wait_until(
        self, condition: Callable[[], bool], seconds: float, what: str, *, may_end: Sequence[Child] = (),
        poll: float = 0.05,
    ) -> None:  # fmt: skip
        """Wait until ``condition()`` holds, checking the children meanwhile.

        Raises:
            ChildDied: a child ended.
            ChildTimeout: ``seconds`` passed; the message says ``what`` was waited for and names the logs.
        """
        end = time.monotonic() + seconds
        while not condition():
            self.check(may_end)
            if time.monotonic() > end:
                logs = "\n".join(f"  {c.name} ({c.log_path}):\n{c.last_lines(5)}" for c in self.children)
                raise ChildTimeout(f"waited {seconds:.0f} s for {what}; last lines of the processes:\n{logs}")
            time.sleep(poll)

    def stop_child(self, child: Child, grace: float = 5.0) -> None:
        """End one child; its shared memory is removed with the group's."""
        child.note_segments()
        _end([child], grace)

    def stop(self, grace: float = 5.0) -> None:
        """End every child: SIGINT, after ``grace`` seconds SIGTERM, two seconds later SIGKILL.

        Then remove the shared-memory files that they could not remove themselves. May be called again.
        """
        for child in self.children:
            if child.running:
                child.note_segments()
        _end(self.children, grace)
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None
        remove_segments({name for child in self.children for name in child.segments})


def _end(children: Sequence[Child], grace: float) -> None:
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        alive = [child for child in children if child.running]
        if not alive:
            break
        for child in alive:
            child.signal(number)
        end = time.monotonic() + seconds
        while any(child.running for child in alive) and time.monotonic() < end:
            time.sleep(0.02)
    for child in children:
        child.drain()


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, with everything cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(pipe: int, grace: float = 60.0) -> None:
    """End this process when the other end of ``pipe`` is closed, that is, when the parent has ended.

    A thread waits for the end of the pipe, sends this process, and its own children where it leads a group, one
    SIGTERM, and exits after ``grace`` seconds, which is for a process that hangs: one that is merely slow on a busy
    machine would leave its shared memory behind. (The kernel's parent-death signal is sent once per thread of the
    parent, and the second one kills a node while it cleans up.)
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 1):
                pass
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=wait, name="end of parent", daemon=True).start()


def _main() -> None:
    """Run a module as a child: arguments PIPE MODULE [ARGUMENT ...]."""
    pipe, module = int(sys.argv[1]), sys.argv[2]
    end_with_parent(pipe)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
