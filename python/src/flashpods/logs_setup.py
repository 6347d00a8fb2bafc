"""How our processes log: one JSON object a line on standard error, for the journal."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging() -> None:
    """Configure structlog for the whole process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def join_stdlib_logging() -> None:
    """Let libraries' warnings join our JSON lines."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            method = "error" if record.levelno >= logging.ERROR else "warning"
            fields = {"exc_info": record.exc_info} if record.exc_info else {}
            log = structlog.get_logger(record.name)
            getattr(log, method)(record.getMessage(), logger=record.name, **fields)

    logging.basicConfig(level=logging.WARNING, handlers=[Handler()], force=True)
