# Appended to flashpods.adapters.sqlite.migrations: what the next version adds.
STEPS = (*STEPS, ("9999_next", ("ALTER TABLE jobs ADD COLUMN note TEXT",)))
