"""Other file formats: for each, how to write a network and how to run what was written."""
