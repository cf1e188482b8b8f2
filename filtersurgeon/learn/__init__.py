"""Evaluate, compare and fine-tune networks, and run many jobs in parallel."""
