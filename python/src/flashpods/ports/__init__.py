"""The small interfaces that the rules speak to; each has a real adapter and one in memory.

Every method is asynchronous and bounded: an adapter sets a deadline on each external call and
raises :class:`flashpods.errors.Unavailable` when it passes. Each verb says what a repeated or a
late call does, because recovery repeats them. ``flashpods.testing`` holds the in-memory adapters;
``tests/contract`` runs the same suite against both.
"""

from flashpods.ports.engine import (
    ContainerError,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ImageError,
    Limits,
    Mount,
)
from flashpods.ports.files import (
    DRAIN_TRIES,
    TAIL_BYTES,
    ArtifactStore,
    DiskFill,
    DiskGauge,
    DiskMeter,
    DiskUse,
    LogStore,
    LogTail,
    TreeSize,
    TreeTooLarge,
    Workspaces,
)
from flashpods.ports.observer import UNOBSERVED, Observer, RecoveryAction
from flashpods.ports.process import Changes, Clock
from flashpods.ports.stores import JobStore, UploadStore

__all__ = [
    "DRAIN_TRIES",
    "TAIL_BYTES",
    "UNOBSERVED",
    "ArtifactStore",
    "Changes",
    "Clock",
    "ContainerError",
    "ContainerRuntime",
    "ContainerSpec",
    "ContainerState",
    "DiskFill",
    "DiskGauge",
    "DiskMeter",
    "DiskUse",
    "ImageError",
    "JobStore",
    "Limits",
    "LogStore",
    "LogTail",
    "Mount",
    "Observer",
    "RecoveryAction",
    "TreeSize",
    "TreeTooLarge",
    "UploadStore",
    "Workspaces",
]
