"""The rules of `doctor` that need no run: settings, modes, processes, deployment, and losses by conversions."""
