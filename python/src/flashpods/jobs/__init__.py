"""The rules and use cases of a job: submit, launch, monitor, collect, cleanup, recovery."""
