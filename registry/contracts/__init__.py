"""What the workshops agreed on: records and their pure encoding. No I/O, no torch.

A module is here because at least two workshops import it (`tests/test_rooms.py` asks). May
import: numpy, msgspec, xxhash. Errors: `contracts.errors`.
"""
