"""How good is a network: evaluate, compare, tune, and many jobs at once."""
