"""What is missing on this machine, before anything is loaded."""
