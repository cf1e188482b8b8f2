"""A walk through a network in three dimensions: from a run on images to one page."""
