"""What monitors find, as evidence that rollouts are decided on, and as alarms that gates ask for; `monitor` is their
process."""
