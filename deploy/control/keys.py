"""API keys: made, rotated, limited, listed and revoked."""

import logging

import msgspec

from deploy.control.asks import Ask, Reply
from deploy.control.desk import Desk
from deploy.control.errors import NotNow
from registry import api_keys
from registry.api_keys import SECRET_BYTES, ApiKey, key_text
from registry.decisions import Decision
from registry.errors import StoreUnavailable
from serving.gateway.control.keys import KeyAnswer, KeyBody, KeysAnswer, LimitBody, NewKeyAnswer, RotateBody

log = logging.getLogger(__name__)


def keys(desk: Desk, ask: Ask) -> Reply:
    """Without the keys themselves."""
    try:
        used_ms = desk.used_ms()
    except StoreUnavailable as error:
        log.info("when keys were last used is not known now: %s", error)
        used_ms = {}
    return ask.reply(KeysAnswer(tuple(_key_answer(key, used_ms.get(key.id)) for key in desk.ring.every())))


def make_key(desk: Desk, ask: Ask) -> Reply:
    """Shown in the answer and kept nowhere: so the receipt cannot show it again."""
    body: KeyBody = ask.body
    text = key_text(desk.random_bytes(SECRET_BYTES))
    key = api_keys.make_key(
        *(text, body.name, body.role, body.models),
        created_ms=ask.now_ms,
        created_by=ask.caller.who,
        expires_ms=None if body.expires_in_s is None else ask.now_ms + body.expires_in_s * 1000,
        requests_per_s=body.requests_per_s,
        candidates_per_s=body.candidates_per_s,
        line=body.line,
    )
    _keep_receipt(
        desk,
        ask,
        f"this request made API key {key.name!r} ({key.id}), which was shown once and is kept nowhere: "
        f"`sluice keys revoke {key.id}`, then make another",
    )
    desk.ring.add(key, text)
    _show_gateways(desk)
    return ask.reply(NewKeyAnswer(text, _key_answer(key)))


def rotate_key(desk: Desk, ask: Ask) -> Reply:
    """Shown in the answer and kept nowhere, as a new key."""
    body: RotateBody = ask.body
    text = key_text(desk.random_bytes(SECRET_BYTES))
    _keep_receipt(
        desk,
        ask,
        f"this request rotated API key {ask.id}, whose text was shown once and is kept nowhere: if it is lost, rotate "
        "the key once more",
    )
    key = desk.ring.rotate(ask.id, text, ask.now_ms, body.grace_s * 1000)
    _show_gateways(desk)
    return ask.reply(NewKeyAnswer(text, _key_answer(key)))


def limit_key(desk: Desk, ask: Ask) -> Reply:
    """Another quota, from within a second on."""
    body: LimitBody = ask.body
    key = desk.ring.limit(ask.id, body.requests_per_s, body.candidates_per_s)
    _have_gateways_follow(desk)
    return ask.reply(_key_answer(key))


def revoke_key(desk: Desk, ask: Ask) -> Reply:
    """Once; a second time changes nothing."""
    key = desk.ring.revoke(ask.id, ask.now_ms)
    _have_gateways_follow(desk)
    return ask.reply(_key_answer(key))


def _keep_receipt(desk: Desk, ask: Ask, told: str) -> None:
    """Before the key is made: a repeated request is told what became of it, and makes no second one."""
    made_before = Reply(409, msgspec.json.encode({"error": told}))
    if (receipt := ask.receipt(made_before)) is not None:
        desk.control.decide(Decision(ask.caller.who, told, ask.now_ms, receipt=receipt))


def _show_gateways(desk: Desk) -> None:
    """If that fails the controller tries again each second; the text must be told now or never."""
    try:
        desk.publish_keys()
    except StoreUnavailable as error:
        log.warning("gateways do not know yet which keys are good: %s", error)


def _have_gateways_follow(desk: Desk) -> None:
    """Raises NotNow."""
    try:
        desk.publish_keys()
    except StoreUnavailable as error:
        raise NotNow(
            f"it is recorded, and counts here, but gateways do not follow yet ({error}): the controller goes on "
            "trying; repeat the request to see it through"
        ) from error


def _key_answer(key: ApiKey, used_ms: int | None = None) -> KeyAnswer:
    told = {name: getattr(key, name) for name in KeyAnswer.__struct_fields__ if name != "used_ms"}
    return KeyAnswer(**told, used_ms=used_ms)
