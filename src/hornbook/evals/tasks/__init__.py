"""The built-in tasks: a file for each family."""
