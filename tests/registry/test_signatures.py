"""Signatures of versions: who is trusted is loaded, nobody else, whatever lies in the store."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.artefacts import read, verify, write
from registry.cache import VersionCache
from registry.contracts.manifest import PROGRAM_FILE, SIGNATURES_FILE, ModelPackage
from registry.errors import RefusedVersion
from registry.signatures import ANYBODY, Signer, TrustedKeys, key_id, make_key, public_text
from registry.store import MemoryStore
from tests.builders import a_package

MODEL = "codesearch"


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return make_key(tmp_path_factory.mktemp("keys") / "ci.key")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return make_key(tmp_path_factory.mktemp("keys") / "stranger.key")


def trust(**signers: Signer) -> TrustedKeys:
    return TrustedKeys({name: signer.public for name, signer in signers.items()})


def test_a_version_that_a_trusted_key_signed_is_good_and_its_digest_is_what_it_was(ci: Signer) -> None:
    signed = ci.signed(a_package())

    assert verify(signed, a_package().digest, trust(ci=ci)) == a_package().manifest
    assert trust(ci=ci).signer_of(signed.digest, signed.signatures_json) == "ci"


def test_without_trusted_keys_nobody_asks_for_signatures() -> None:
    assert verify(a_package(), a_package().digest, ANYBODY) == a_package().manifest


def test_a_version_without_a_signature_is_refused_and_told_what_to_do(ci: Signer) -> None:
    with pytest.raises(RefusedVersion, match=r"is not signed, and trusted are ci \(.*`sluice models sign"):
        verify(a_package(), a_package().digest, trust(ci=ci))


def test_a_version_of_another_key_is_refused_by_that_key_s_id(ci: Signer, stranger: Signer) -> None:
    signed = stranger.signed(a_package())

    with pytest.raises(
        RefusedVersion, match=f"signed with the keys {key_id(stranger.public)}, by none of them rightly"
    ):
        verify(signed, signed.digest, trust(ci=ci))


def test_a_signature_is_of_one_version_only(ci: Signer) -> None:
    moved = replace(a_package(2.0), signatures_json=ci.signed(a_package(1.0)).signatures_json)

    with pytest.raises(RefusedVersion, match="by none of them rightly"):
        verify(moved, moved.digest, trust(ci=ci))


def test_a_signature_that_says_it_is_of_a_trusted_key_is_not_believed(ci: Signer, stranger: Signer) -> None:
    forged = stranger.signed(a_package()).signatures_json.replace(
        key_id(stranger.public).encode(), key_id(ci.public).encode()
    )

    assert trust(ci=ci).signer_of(a_package().digest, forged) is None


def test_keys_are_rotated_by_trusting_both_or_by_signing_again(ci: Signer, stranger: Signer) -> None:
    old = ci.signed(a_package())
    both = stranger.signed(old)

    assert trust(ci=ci, next=stranger).refusal(old.digest, old.signatures_json) == ""
    assert trust(next=stranger).refusal(old.digest, old.signatures_json)
    assert [trust(one=key).refusal(both.digest, both.signatures_json) for key in (ci, stranger)] == ["", ""]
    assert stranger.signed(both).signatures_json == both.signatures_json


@given(st.binary(max_size=200))
def test_whatever_stands_in_a_signature_s_place_is_refused_and_nothing_else_happens(raw: bytes) -> None:
    keys = TrustedKeys({"ci": bytes(32)})

    assert keys.signer_of("0" * 64, raw) is None
    assert keys.refusal("0" * 64, raw)


@pytest.mark.parametrize("text", ["ci", "ci=", "ci=AAAA", "=" + "A" * 43 + "=", "a b=" + "A" * 43 + "="])
def test_trusted_keys_that_are_none_are_refused_by_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="expected name=KEY"):
        TrustedKeys.parse(text)


def test_a_private_key_is_its_owner_s_and_nothing_shows_it(tmp_path: Path) -> None:
    made = make_key(tmp_path / "a.key")
    pem = (tmp_path / "a.key").read_text()

    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert Signer.from_pem(pem).public == made.public
    assert TrustedKeys.parse(f"me={public_text(made.public)}").keys == {"me": made.public}
    secret = pem.splitlines()[1]
    assert secret not in repr(made)
    with pytest.raises(ValueError, match="expected an Ed25519 private key") as refused:
        Signer.from_pem(pem.replace("PRIVATE KEY", "SECRET KEY"))
    assert secret not in str(refused.value)
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "a.key")


def test_a_cached_copy_is_held_against_the_keys_of_now(tmp_path: Path, ci: Signer, stranger: Signer) -> None:
    source = [ci.signed(a_package())]

    def get(trusted: TrustedKeys) -> Path:
        return VersionCache(tmp_path, lambda model, version: source[0], trusted).get(MODEL, 3, a_package().digest)

    folder = get(trust(ci=ci))
    assert (folder / SIGNATURES_FILE).read_bytes() == source[0].signatures_json
    with pytest.raises(RefusedVersion, match="SLUICE_TRUSTED_KEYS"):
        get(trust(next=stranger))
    source[0] = stranger.signed(source[0])  # signed again at its source: fetched, without anybody's help
    assert read(get(trust(next=stranger))) == a_package()


def test_a_copy_that_was_tampered_with_is_refused_though_its_digest_was_made_to_fit(tmp_path: Path, ci: Signer) -> None:
    tampered = ModelPackage.of(a_package(2.0).program, a_package().manifest, a_package().profile)
    write(replace(tampered, signatures_json=ci.signed(a_package()).signatures_json), tmp_path / MODEL / "3")
    cache = VersionCache(tmp_path, lambda model, version: read(tmp_path / MODEL / "3"), trust(ci=ci))

    with pytest.raises(RefusedVersion, match="by none of them rightly"):
        cache.get(MODEL, 3, tampered.digest)
    assert (tmp_path / MODEL / "3" / PROGRAM_FILE).exists()


def test_a_store_with_a_key_signs_and_one_that_trusts_others_registers_nothing_unsigned(
    ci: Signer, stranger: Signer
) -> None:
    trusting = MemoryStore(trusted=trust(ci=ci))
    with pytest.raises(RefusedVersion, match="is not signed"):
        trusting.register(MODEL, a_package())
    with pytest.raises(RefusedVersion, match="by none of them rightly"):
        MemoryStore(stranger, trust(ci=ci)).register(MODEL, a_package())

    assert trusting.register(MODEL, ci.signed(a_package())) == 1
    assert MemoryStore(ci, trust(ci=ci)).register(MODEL, a_package()) == 1
