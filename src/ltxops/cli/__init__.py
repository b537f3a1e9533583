"""The command line: each module parses one noun, calls one function, and prints."""
