"""Learning: data feed, networks, methods, trainer, metrics and tracking for MRI contrast synthesis."""
