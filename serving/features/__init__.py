"""Feature tiers: host slab over Redis. A tier over a tier is a tier again."""
