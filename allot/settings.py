"""What a user asks of a cluster, checked.

Rules: pure; each refusal names the argument, what it was, and what it may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allot.errors import ConfigError
from allot.scheduler import Distribution

_MOST_NAME_BYTES = 200


@dataclass(frozen=True)
class Settings:
    """The arguments of a cluster that are plain values; see ``Cluster`` for their meaning."""

    job_name: str
    output_dir: Path
    nnodes: int | None = None
    ntasks: int | None = None
    ntasks_per_node: int | None = None
    cpus_per_task: int = 1
    oversubscribe: bool = False
    distribution: Distribution = Distribution.BLOCK
    shared_fs: bool | None = None
    poll_interval: float = 1.0
    max_bars: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: One of them makes no sense.
        """
        _check_name(self.job_name)
        for argument in ("nnodes", "ntasks", "ntasks_per_node", "cpus_per_task", "max_bars"):
            value = getattr(self, argument)
            optional = argument != "cpus_per_task"
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{argument} must be a whole number from 1, not {value!r}")
        if self.shared_fs not in (None, True, False):
            raise ConfigError(f"shared_fs must be None, True or False, not {self.shared_fs!r}")
        if not isinstance(self.poll_interval, (int, float)) or not self.poll_interval > 0:
            raise ConfigError(
                f"poll_interval must be a number of seconds above 0, not {self.poll_interval!r}"
            )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & {"/", "\0"}:
        raise ConfigError(f"job_name must be text that can be a file name, not {name!r}")
    try:
        size = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise ConfigError(f"job_name must be text, not half a surrogate pair: {name!r}") from None
    if size > _MOST_NAME_BYTES:
        raise ConfigError(f"job_name must be at most {_MOST_NAME_BYTES} bytes long, not {name!r}")


def as_distribution(value: object) -> Distribution:
    """The ``distribution`` argument.

    Raises:
        ConfigError: It is neither ``"block"`` nor ``"cyclic"``.
    """
    try:
        return Distribution(value)
    except ValueError:
        raise ConfigError(f'distribution must be "block" or "cyclic", not {value!r}') from None
