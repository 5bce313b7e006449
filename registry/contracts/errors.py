"""Errors about records: what another process wrote does not fit what we agreed on.

```
ContractError          ValueError; the gateway answers 400, other processes count and skip
  InvalidName          a model name, item id or ranking id breaks its rule
  UnknownSchema        written by a newer (or no) version of Sluice
  CorruptRecord        bytes that no version of Sluice wrote
```
"""

import msgspec

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not what they should be; the last two are not its own."""


class ContractError(ValueError):
    """A record does not fit what the rooms agreed on."""


class InvalidName(ContractError):
    """A name or an id breaks its rule; the message names the field and the rule."""


class UnknownSchema(ContractError):
    """The record's schema version is not one this code reads."""


class CorruptRecord(ContractError):
    """The bytes are no record of ours."""
