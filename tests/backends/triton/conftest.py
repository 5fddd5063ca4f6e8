"""The script is run by a test, in a process of its own."""

collect_ignore = ["compile_offline.py"]
