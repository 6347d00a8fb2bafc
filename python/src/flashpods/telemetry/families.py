"""From a tally and a sample to Prometheus' samples: pure. Names end in their base unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from flashpods.jobs.model import Capacity, JobType, Tally, UploadState
from flashpods.jobs.states import ACTIVE, ENDED, JobStatus
from flashpods.telemetry.sampler import Sample

GIB: Final = 1024**3

Row = tuple[tuple[str, ...], float]


def of_tally(tally: Tally, capacity: Capacity) -> Iterator[Metric]:
    """Yield what the database adds up to."""
    yield _gauge(
        "flashpods_jobs",
        "Active jobs, which hold resources.",
        ("status", "type"),
        [
            ((status.value, kind.value), tally.active.get((status, kind), 0))
            for status in JobStatus
            if status in ACTIVE
            for kind in JobType
        ],
    )
    yield _counter(
        "flashpods_jobs_created",
        "Jobs accepted, of all time.",
        ("type",),
        [((kind.value,), tally.created.get(kind, 0)) for kind in JobType],
    )
    yield from _ended(tally)
    yield from _capacity(tally, capacity)
    yield _gauge(
        "flashpods_draining", "1: new jobs are refused.", (), [((), float(tally.draining))]
    )
    yield from _uploads(tally)


def _ended(tally: Tally) -> Iterator[Metric]:
    plain = [status for status in JobStatus if status in ENDED and status is not JobStatus.FAILED]
    finished = {(kind.value, status.value, ""): 0 for kind in JobType for status in plain}
    for ended, n in tally.ended.items():
        finished[ended.type.value, ended.status.value, ended.reason] = n
    yield _counter(
        "flashpods_jobs_finished",
        "Jobs ended, of all time; the reason is a failed one's error code.",
        ("type", "status", "reason"),
        finished.items(),
    )
    failed = sum(n for ended, n in tally.ended.items() if ended.status is JobStatus.FAILED)
    # Without labels: of a series that begins at 1 increase() does not see the first.
    yield _counter("flashpods_jobs_failed", "Jobs failed, of all time.", (), [((), failed)])


def _capacity(tally: Tally, capacity: Capacity) -> Iterator[Metric]:
    held = tally.reserved
    for what, cpus, memory_gb, text in (
        ("capacity", capacity.cpus, capacity.memory_gb, "What the host offers to jobs"),
        ("reserved", held.cpus, held.memory_gb, "What active jobs hold of it"),
    ):
        yield _gauge(f"flashpods_{what}_cpus", f"{text}: CPUs.", (), [((), cpus)])
        name = f"flashpods_{what}_memory_bytes"
        yield _gauge(name, f"{text}: memory.", (), [((), memory_gb * GIB)])


def _uploads(tally: Tally) -> Iterator[Metric]:
    kept = (UploadState.UPLOADING, UploadState.FINALIZED)
    now = [(state.value, *tally.uploads.get(state, (0, 0))) for state in kept]
    yield _gauge(
        "flashpods_uploads",
        "Uploads that no job has taken yet.",
        ("state",),
        [((state,), n) for state, n, _ in now],
    )
    yield _gauge(
        "flashpods_uploads_finalized_bytes",
        "Finalized trees that no job has taken yet.",
        (),
        [((), tally.uploads.get(UploadState.FINALIZED, (0, 0))[1])],
    )
    yield _counter(
        "flashpods_uploads_entered",
        "Uploads that came into the state, of all time.",
        ("state",),
        [((state.value,), tally.uploads_total.get(state, 0)) for state in UploadState],
    )
    yield _counter(
        "flashpods_uploads_received_bytes",
        "Bytes of all trees ever finalized.",
        (),
        [((), tally.uploads_finalized_bytes)],
    )


def of_sample(sample: Sample) -> Iterator[Metric]:
    """Yield what the sampler saw; nothing of what it could not look at."""
    yield _gauge(
        "flashpods_sample_timestamp_seconds",
        "When what is not counted on the spot was looked at.",
        (),
        [((), sample.at)],
    )
    yield _gauge(
        "flashpods_component_up",
        "1: that part of the host answers.",
        ("component",),
        [((name,), float(up)) for name, up in sample.up.items()],
    )
    yield _gauge(
        "flashpods_disk_used_ratio",
        "Used part of the tree's file system, 0 to 1, as df(1) counts.",
        ("tree",),
        [((tree,), part) for tree, part in sample.disk.items()],
    )
    for name, text, value in (
        ("flashpods_job_logs_bytes", "Size of the jobs' logs on disk.", sample.log_bytes),
        ("flashpods_job_logs", "The jobs' logs.", sample.log_files),
        ("flashpods_artifacts_bytes", "Size of the kept artifacts.", sample.artifact_bytes),
    ):
        yield from _one(name, text, value)
    yield from _cleanup(sample)
    yield from _backup(sample)
    yield from _one(
        "flashpods_backup_elsewhere_timestamp_seconds",
        "When backups were last carried elsewhere; 0: never; absent: nobody is to.",
        sample.elsewhere,
    )


def _cleanup(sample: Sample) -> Iterator[Metric]:
    cleanup = sample.cleanup
    if cleanup is None:
        return
    yield _counter(
        "flashpods_cleanup_items",
        "What the reaper dealt with, of all time.",
        ("step",),
        [((step,), n) for step, n in cleanup.done.items()],
    )
    yield _counter(
        "flashpods_cleanup_failures",
        "Items that the reaper failed with and tries again, of all time.",
        (),
        [((), cleanup.failed)],
    )
    yield from _one(
        "flashpods_cleanup_last_run_timestamp_seconds",
        "End of the reaper's last round.",
        cleanup.last_run_at,
    )
    yield from _one(
        "flashpods_cleanup_last_success_timestamp_seconds",
        "End of its last round without a failure.",
        cleanup.last_success_at,
    )
    yield from _one(
        "flashpods_cleanup_duration_seconds", "Time of its last round.", cleanup.duration_seconds
    )


def _backup(sample: Sample) -> Iterator[Metric]:
    backup = sample.backup
    if backup is None:
        return
    yield from _one(
        "flashpods_backup_last_run_timestamp_seconds",
        "End of the last backup.",
        backup.finished_at,
    )
    yield from _one(
        "flashpods_backup_last_success_timestamp_seconds",
        "End of the last verified backup.",
        backup.last_success_at,
    )
    yield from _one(
        "flashpods_backup_ok", "1: the last backup was made and verified.", float(backup.ok)
    )
    yield from _one("flashpods_backup_size_bytes", "Size of the last backup.", backup.size_bytes)
    yield from _one(
        "flashpods_backup_duration_seconds", "Time of the last backup.", backup.duration_seconds
    )


def _one(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, text, (), [((), value)])


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Iterable[Row]) -> Metric:
    for values, number in rows:
        family.add_metric(list(values), number)
    return family
