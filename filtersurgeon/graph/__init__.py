"""Following channels through a network, and cutting those that are not needed."""
