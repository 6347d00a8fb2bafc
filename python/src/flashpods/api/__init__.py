"""The HTTP API: contract section 5 over FastAPI; `app` builds it, `main` runs it."""
