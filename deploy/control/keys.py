"""API keys: made, listed and revoked."""

import msgspec

from deploy.control.asks import Ask, Reply
from deploy.control.desk import Desk
from registry import api_keys
from registry.api_keys import SECRET_BYTES, ApiKey, key_text
from registry.decisions import Decision
from serving.gateway.control_schema import (
    KeyAnswer,
    KeyBody,
    KeysAnswer,
    NewKeyAnswer,
)


def keys(desk: Desk, ask: Ask) -> Reply:
    """Without the keys themselves."""
    return ask.reply(KeysAnswer(tuple(map(_key_answer, desk.ring.every()))))


def make_key(desk: Desk, ask: Ask) -> Reply:
    """Shown in the answer and kept nowhere: so the receipt cannot show it again."""
    body: KeyBody = ask.body
    text = key_text(desk.random_bytes(SECRET_BYTES))
    key = api_keys.make_key(text, body.name, body.role, body.models, created_ms=ask.now_ms, created_by=ask.caller.who)
    told = (
        f"this request made API key {key.name!r} ({key.id}), which was shown once and is kept nowhere: "
        f"`sluice keys revoke {key.id}`, then make another"
    )
    made_before = Reply(409, msgspec.json.encode({"error": told}))
    if (receipt := ask.receipt(made_before)) is not None:
        desk.control.decide(Decision(ask.caller.who, told, ask.now_ms, receipt=receipt))
    desk.ring.add(key, text)
    return ask.reply(NewKeyAnswer(text, _key_answer(key)))


def revoke_key(desk: Desk, ask: Ask) -> Reply:
    """Once; a second time changes nothing."""
    return ask.reply(_key_answer(desk.ring.revoke(ask.id, ask.now_ms)))


def _key_answer(key: ApiKey) -> KeyAnswer:
    return KeyAnswer(key.id, key.name, key.prefix, key.role, key.models, key.created_ms, key.revoked_ms)
