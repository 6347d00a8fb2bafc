"""The validation suite of a live host (contract, section 11)."""
