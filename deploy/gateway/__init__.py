"""The gateway process: both front doors, HTTP and gRPC, in one server."""
