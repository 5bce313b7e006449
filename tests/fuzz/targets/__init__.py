"""All targets, by the door that the bytes come in by."""

from tests.fuzz.target import Target


def all_targets() -> dict[str, Target]:
    """By name, in a fixed order."""
    from tests.fuzz.targets import control, data, disk, gateway, identity, records, wire

    found = [one for room in (gateway, identity, control, wire, records, disk, data) for one in room.targets()]
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}
