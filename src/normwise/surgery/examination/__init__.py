"""What `doctor` finds without running a model: settings, modes, processes, where it goes, what conversions lost."""
