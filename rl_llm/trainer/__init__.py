"""The loop, and everything that must survive a restart."""
