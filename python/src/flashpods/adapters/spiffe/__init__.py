"""SPIFFE's Workload API through py-spiffe: trust bundles, and JWT-SVIDs validated with them."""
