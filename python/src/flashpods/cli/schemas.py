"""What each command prints with ``--json``, as JSON Schema (2020-12).

The host's rows are open: a newer host may add fields. An error is one object too, on stdout, with
an exit code other than 0: the schema ``error``.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from flashpods.cli.session import EXIT_USAGE

__all__ = ["SCHEMAS", "print_schema"]

Schema = dict[str, Any]
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Describe an open object."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


STATES: Final = (
    "pending", "starting", "running", "completed", "failed", "timed_out", "cancelled", "cleaning",
    "cleaned",
)  # fmt: skip
ROW: Final[dict[str, Schema]] = {
    "id": TEXT,
    "type": {"enum": ["worker", "agent"]},
    "status": {"enum": list(STATES)},
    "phase": _or_null(TEXT),
    "command": _or_null(TEXT),
    "task": _or_null(TEXT),
    "image": TEXT,
    "cpus": WHOLE,
    "memory_gb": WHOLE,
    "timeout_minutes": WHOLE,
    "created_at": TEXT,
    "started_at": _or_null(TEXT),
    "completed_at": _or_null(TEXT),
    "cancel_requested": FLAG,
    "exit_code": _or_null(WHOLE),
    "error": _or_null(TEXT),
    "warnings": _listed(TEXT),
}
TIMES: Final[dict[str, Schema]] = {
    "elapsed_seconds": {"type": "number", "minimum": 0},
    "duration_seconds": {"type": "number", "minimum": 0},
    "revision": TEXT,
}
EVENT: Final = _record({"from": _or_null(TEXT), "to": TEXT, "at": TEXT, "why": TEXT})
LISTED_JOB: Final = _record(ROW, TIMES)
JOB: Final = _record({**ROW, "events": _listed(EVENT)}, TIMES)
UPLOAD: Final = _record(
    {"upload_id": TEXT, "state": TEXT},
    {
        "rsync_url": TEXT,
        "base": _or_null(TEXT),
        "project": _or_null(TEXT),
        "size_bytes": _or_null(COUNT),
        "file_count": _or_null(COUNT),
        "sent_bytes": _or_null(COUNT),
        "expires_at": _or_null(TEXT),
        "job_id": _or_null(TEXT),
    },
)
ARTIFACT: Final = _record(
    {"name": TEXT, "type": {"enum": ["file", "directory"]}, "size_bytes": COUNT},
    {"sha256": _or_null(TEXT), "created_at": TEXT},
)
BROUGHT: Final = _record(
    {"job_id": TEXT, "name": TEXT, "path": TEXT, "size_bytes": _or_null(COUNT)}
)
SIZE: Final = _record({"cpus": COUNT, "memory_gb": COUNT})
CAPACITY: Final = _record(
    {
        "host": SIZE,
        "reserved": SIZE,
        "available": SIZE,
        "reserve": SIZE,
        "running_jobs": COUNT,
        "draining": FLAG,
    }
)
FILES: Final = _listed(
    _record({"path": TEXT, "added": _or_null(COUNT), "deleted": _or_null(COUNT)})
)
JOBS: Final = _record(
    {"jobs": _listed(LISTED_JOB), "total": COUNT, "next_cursor": _or_null(TEXT)},
    {"draining": FLAG},
)
RUN: Final = {
    "oneOf": [
        _record(
            {
                "job": JOB,
                "upload": {"oneOf": [UPLOAD, {"type": "null"}]},
                "artifacts": _listed(TEXT),
                "exit_code": COUNT,
            }
        ),
        {
            **_record({"job_id": TEXT, "status": TEXT, "created": FLAG, "granted": {}}),
            "description": "with --detach",
        },
    ]
}
PIECE: Final = _record({"text": TEXT, "cursor": COUNT})

SCHEMAS: Final[dict[str, Schema]] = {
    "error": _record({"error": TEXT, "message": TEXT}, {"details": {"type": "object"}}),
    "run": RUN,
    "agent": RUN,
    "ps": {**JOBS, "description": "with --watch one a line, without draining"},
    "status": JOB,
    "logs": {
        "oneOf": [
            _record(
                {"output": TEXT, "lines": COUNT, "truncated": FLAG, "total_bytes": COUNT},
                {"offset": COUNT, "next_offset": COUNT},
            ),
            {**PIECE, "description": "with --follow or --since, one a line"},
        ]
    },
    "attach": JOB,
    "wait": _record({"jobs": _listed(JOB)}),
    "kill": _record({"job_id": TEXT, "status": {"const": "cancelled"}}),
    "top": {
        **_record({"at": TEXT, "capacity": CAPACITY, "jobs": _listed(LISTED_JOB)}),
        "description": "one a line",
    },
    "artifacts": _record({"artifacts": _listed(ARTIFACT)}),
    "download": BROUGHT,
    "cp": {
        "oneOf": [
            BROUGHT,
            {**_record({"artifacts": _listed(BROUGHT)}), "description": "without a name"},
        ]
    },
    "diff": _record({"job_id": TEXT, "files": FILES, "patch": TEXT}),
    "apply": _record({"job_id": TEXT, "directory": TEXT, "applied": FLAG, "files": FILES}),
    "capacity": CAPACITY,
    "health": _record(
        {
            "status": {"enum": ["healthy", "degraded"]},
            "version": TEXT,
            "uptime_seconds": {"type": "number"},
            "checks": {"type": "object", "additionalProperties": _record({"status": TEXT})},
        }
    ),
    "uploads push": UPLOAD,
    "uploads reserve": UPLOAD,
    "uploads finalize": UPLOAD,
    "uploads show": UPLOAD,
    "uploads rm": _record({"upload_id": TEXT, "deleted": {"const": True}}),
    "doctor": _record(
        {
            "ok": FLAG,
            "checks": _listed(
                _record(
                    {
                        "name": TEXT,
                        "status": {"enum": ["ok", "warning", "failed", "skipped"]},
                        "message": TEXT,
                        "remedy": TEXT,
                    }
                )
            ),
        }
    ),
    "config init": _record({"config": TEXT, "values": {"type": "object"}, "token_written": FLAG}),
    "config show": _record(
        {
            "file": TEXT,
            "file_exists": FLAG,
            "base_url": TEXT,
            "token_source": TEXT,
            "default_exclude": _listed(TEXT),
            "gitignore": FLAG,
        }
    ),
    "mcp install": _record({"agent": TEXT, "path": TEXT, "entry": {}, "changed": FLAG}),
    "check-config": _record({"ok": FLAG, "file": TEXT}, {"error": TEXT, "message": TEXT}),
}


def print_schema(command: str | None) -> int:
    """Print a command's schema, or all of them by name; return the exit code."""
    if command is None:
        wanted: Schema = {"$schema": DIALECT, "$defs": SCHEMAS}
    elif command in SCHEMAS:
        wanted = {"$schema": DIALECT, "title": f"flashpods {command} --json", **SCHEMAS[command]}
    else:
        sys.stderr.write(f"error: no schema of {command[:80]!r}; there is {', '.join(SCHEMAS)}\n")
        return EXIT_USAGE
    sys.stdout.write(json.dumps(wanted, indent=2) + "\n")
    return 0
