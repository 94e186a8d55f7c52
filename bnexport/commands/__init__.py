"""The commands that `cli` does not hold itself, a module each: it parses what it was given, calls the library and prints."""
