"""Pre-defined filter modules: fixed filters, a rectifier, and a trainable pointwise combination."""
