"""The worker process: one replica, its device, and the versions it loads."""
