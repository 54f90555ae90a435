"""What this host has: read from the kernel and the installed packages, and tried in child processes."""
