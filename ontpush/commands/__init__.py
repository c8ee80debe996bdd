"""One module a command: each computes a Result and shows nothing."""
