"""What a user asks of a cluster, checked.

Rules: pure; each refusal names the argument, what it was, and what it may be.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allot.errors import ConfigError
from allot.patterns import check_pattern
from allot.scheduler import Distribution
from allot.staging import as_pattern, as_source

_MOST_NAME_BYTES = 200


EXPORTS = ("slurm", "torch")
"""What ``export`` may name beside variables of the client's."""

_COUNTS = ("nnodes", "ntasks", "ntasks_per_node", "cpus_per_task", "max_failures", "max_bars")
_COUNTS_FROM_0 = ("gpus_per_task", "retries")
_FLAGS = ("oversubscribe", "kill_on_bad_exit", "login_shell")
_NICENESS = range(-20, 20)


@dataclass(frozen=True)
class Settings:
    """The arguments of a cluster that are plain values; see ``Cluster`` for their meaning."""

    job_name: str
    output_dir: Path
    nnodes: int | None = None
    ntasks: int | None = None
    ntasks_per_node: int | None = None
    cpus_per_task: int | None = None
    gpus_per_task: int = 0
    mem_per_task: int | None = None
    oversubscribe: bool = False
    distribution: Distribution = Distribution.BLOCK
    time_limit: float | None = None
    retries: int = 0
    kill_on_bad_exit: bool = False
    max_failures: int | None = None
    node_max_failures: int = 3
    setup: tuple[str, ...] = ()
    cwd: str | None = None
    shared_cwd: str | None = None
    login_shell: bool = False
    nice: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    export: tuple[str, ...] = ()
    wait_for_nodes: float = 0.0
    node_timeout: float | None = None
    shared_fs: bool | None = None
    poll_interval: float = 1.0
    max_bars: int | None = None
    command: str | None = None
    progress_pattern: str = "allot"
    stage_in: tuple[str, ...] = ()
    stage_from: Path | None = None
    collect: tuple[str, ...] = ()
    collect_to: Path | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: One of them makes no sense.
        """
        _check_name(self.job_name)
        for argument in _COUNTS:
            if getattr(self, argument) is not None:
                _check_count(argument, getattr(self, argument), 1)
        for argument in _COUNTS_FROM_0:
            _check_count(argument, getattr(self, argument), 0)
        _check_count("node_max_failures", self.node_max_failures, 1)
        for argument in _FLAGS:
            if not isinstance(getattr(self, argument), bool):
                raise ConfigError(
                    f"{argument} must be True or False, not {getattr(self, argument)!r}"
                )
        if self.shared_fs not in (None, True, False):
            raise ConfigError(f"shared_fs must be None, True or False, not {self.shared_fs!r}")
        if not isinstance(self.nice, int) or self.nice not in _NICENESS:
            raise ConfigError(f"nice must be a whole number from -20 to 19, not {self.nice!r}")
        if not _is_number(self.poll_interval) or not self.poll_interval > 0:
            raise ConfigError(
                f"poll_interval must be a number of seconds above 0, not {self.poll_interval!r}"
            )
        if not _is_number(self.wait_for_nodes) or self.wait_for_nodes < 0:
            raise ConfigError(
                f"wait_for_nodes must be a number of seconds from 0, not {self.wait_for_nodes!r}"
            )
        if self.node_timeout is not None and (
            not _is_number(self.node_timeout) or not self.node_timeout > 0
        ):
            raise ConfigError(
                f"node_timeout must be a number of seconds above 0, or None, not "
                f"{self.node_timeout!r}"
            )
        check_pattern(self.progress_pattern)
        self._check_files()
        self._check_torch()

    def _check_files(self) -> None:
        for text in self.stage_in:
            as_source(text, Path("/"))
        for text in self.collect:
            as_pattern(text)
        if self.collect_to is not None and not self.collect:
            raise ConfigError("collect_to says where results go: name them in collect")

    def _check_torch(self) -> None:
        if "torch" not in self.export:
            return
        if self.retries:
            raise ConfigError(
                'export="torch" does not go with retries: a task that is started again alone '
                "cannot join the others; run the whole job again"
            )


def _check_count(argument: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{argument} must be a whole number from {least}, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & {"/", "\0"}:
        raise ConfigError(f"job_name must be text that can be a file name, not {name!r}")
    try:
        size = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise ConfigError(f"job_name must be text, not half a surrogate pair: {name!r}") from None
    if size > _MOST_NAME_BYTES:
        raise ConfigError(f"job_name must be at most {_MOST_NAME_BYTES} bytes long, not {name!r}")


def as_directory(argument: str, value: object) -> Path:
    """An argument that names a directory, as an absolute path.

    Raises:
        ConfigError: It is no path, or empty.
    """
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{argument} must be a path, not {value!r}")
    if not str(value):
        raise ConfigError(f"{argument} is empty: name a directory")
    return Path(os.path.abspath(Path(value).expanduser()))


def as_distribution(value: object) -> Distribution:
    """The ``distribution`` argument.

    Raises:
        ConfigError: It is neither ``"block"`` nor ``"cyclic"``.
    """
    try:
        return Distribution(value)
    except ValueError:
        raise ConfigError(f'distribution must be "block" or "cyclic", not {value!r}') from None


def as_lines(argument: str, value: object, *, paths: bool = False) -> tuple[str, ...]:
    """An argument that is one string or several; ``paths`` may stand among them.

    Raises:
        ConfigError: It is neither.
    """
    lines = (value,) if isinstance(value, str) else value
    if not isinstance(lines, Iterable) or isinstance(lines, (bytes, Mapping)):
        raise ConfigError(f"{argument} must be a string or several strings, not {value!r}")
    lines = tuple(str(line) if paths and isinstance(line, Path) else line for line in lines)
    if not all(isinstance(line, str) for line in lines):
        raise ConfigError(f"{argument} must hold strings only, not {value!r}")
    return lines


def as_texts(argument: str, value: object) -> tuple[str, ...]:
    """An argument that is one path or several; a leading ``~`` is the client's.

    Raises:
        ConfigError: It is neither.
    """
    lines = as_lines(argument, str(value) if isinstance(value, Path) else value, paths=True)
    return tuple(os.path.expanduser(line) for line in lines)


def as_variables(
    env: Mapping[str, object], export: tuple[str, ...], own: Mapping[str, str]
) -> dict[str, str]:
    """The variables a user asked for.

    Args:
        env: Those given by value.
        export: Names of the client's variables to pass on; ``EXPORTS`` are no such names.
        own: The client's environment.

    Raises:
        ConfigError: A variable to be passed on is not set, or ``env`` is no mapping.
    """
    if not isinstance(env, Mapping):
        raise ConfigError(f"env must be a mapping of names to values, not {env!r}")
    names = [name for name in export if name not in EXPORTS]
    for name in names:
        if name not in own:
            raise ConfigError(
                f"export: {name} is not set here; set it, or give it in env "
                '(or did you mean "slurm" or "torch"?)'
            )
    for name, value in env.items():
        if value is None:
            raise ConfigError(f"env: {name} has no value; leave it out, or give it one")
    passed_on = {name: own[name] for name in names}
    return passed_on | {str(name): str(value) for name, value in env.items()}
