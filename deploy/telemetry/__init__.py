"""Traces out of the house, by OpenTelemetry's protocol (OTLP over HTTP) to a collector of the user's.

Processes hand over spans and go on (`export`); a thread of each makes OpenTelemetry's of them and sends them. With no
collector named (`SLUICE_TRACES`) nothing of this is imported.
"""
