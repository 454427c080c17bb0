"""The programs that run inside the sandbox; they import nothing of this project but each other."""
