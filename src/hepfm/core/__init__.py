"""What every stage shares: errors, records, observables, networks, the training engine, artifacts."""
