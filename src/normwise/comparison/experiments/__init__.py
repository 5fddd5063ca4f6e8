"""What a sweep runs: our own loop on a task, or a training function of the user's."""
