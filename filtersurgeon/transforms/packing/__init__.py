"""Packed layers: archetypes in place of filters, and what turns them back."""
