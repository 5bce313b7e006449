"""Feature rows by command: where they are kept, a file of them loaded, one row shown, what tiers do."""
