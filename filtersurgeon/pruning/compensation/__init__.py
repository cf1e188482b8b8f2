"""Making up for removed channels: the layers that read them get other weights, nothing else."""
