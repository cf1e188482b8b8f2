"""Values that spatial kernels can begin with, one file each."""
