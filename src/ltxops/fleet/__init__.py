"""Operate hosts over SSH: what the tasks of fabfile.py do."""
