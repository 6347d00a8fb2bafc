"""The tally of records in memory, counted anew from the rows and events each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from flashpods.jobs.model import EXIT_CODE, Ended, Job, JobEvent, Reserved, Tally, Upload
from flashpods.jobs.model import UploadState as S
from flashpods.jobs.states import ENDED, JobStatus


def tally_of(
    jobs: Mapping[str, Job],
    events: Iterable[JobEvent],
    uploads: Iterable[Upload],
    *,
    moves: Counter[S],
    finalized_bytes: int,
    draining: bool,
) -> Tally:
    """Return the tally; ``moves`` and ``finalized_bytes`` outlive the rows of uploads."""
    ended: Counter[Ended] = Counter()
    for event in events:
        if event.to_status in ENDED:
            job = jobs[event.job_id]
            failed = event.to_status is JobStatus.FAILED
            reason = (job.error or EXIT_CODE) if failed else ""
            ended[Ended(type=job.type, status=event.to_status, reason=reason)] += 1
    held = [job for job in jobs.values() if job.active]
    kept = {
        state: [u.size_bytes or 0 for u in uploads if u.state is state]
        for state in (S.UPLOADING, S.FINALIZED)
    }
    return Tally(
        active=Counter((job.status, job.type) for job in held),
        reserved=Reserved(
            cpus=sum(job.cpus for job in held),
            memory_gb=sum(job.memory_gb for job in held),
            jobs=len(held),
        ),
        draining=draining,
        created=Counter(job.type for job in jobs.values()),
        ended=ended,
        uploads={state: (len(sizes), sum(sizes)) for state, sizes in kept.items() if sizes},
        uploads_total=dict(moves),
        uploads_finalized_bytes=finalized_bytes,
    )
