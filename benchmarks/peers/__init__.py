"""Scripts that do the same job with other means, each run as a process of its own."""
