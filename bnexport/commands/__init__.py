"""The commands, a module each, with the function of its name: it parses what it was given, calls the library and prints."""
