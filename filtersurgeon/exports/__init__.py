"""Other programs' formats: for each, how to write a network and how to run what was written."""
