"""The experiments of a sweep: our own loop on a task, or a training function of the user."""
