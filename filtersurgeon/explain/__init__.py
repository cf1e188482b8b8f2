"""What a network's kernels are made of, and which of them matter."""
