"""What a filter, a channel, a class or a network does, as pictures and numbers."""
