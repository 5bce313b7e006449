"""`sluice models make-key|sign`: whose versions are loaded."""

from pathlib import Path
from typing import Annotated

import typer

from deploy import wiring
from deploy.commands.registry_access import ModelName, platform, told
from deploy.errors import SluiceError


def make_key(
    name: Annotated[str, typer.Argument(help="What messages call its owner.")],
    out: Annotated[Path, typer.Option("--out", help="The file of the private key, a new one.")] = Path("signing.key"),
) -> None:
    """Make a key that signs versions, and print the settings that go with it."""
    from registry import signatures

    try:
        trusted = signatures.TrustedKeys.parse(f"{name}={signatures.public_text(bytes(32))}")
    except ValueError as error:
        raise typer.BadParameter("expected letters, digits and ._-, 64 at most", param_hint="NAME") from error
    try:
        made = signatures.make_key(out)
    except OSError as error:
        raise SluiceError(f"{out}: {error.strerror}", "sluice models make-key NAME --out A_NEW_FILE") from error
    typer.echo("# where versions are registered: commands, and the platform if it trains")
    typer.echo(f"SLUICE_SIGNING_KEY_FILE={out.absolute()}")
    typer.echo("# everywhere; several with commas between them")
    typer.echo(f"SLUICE_TRUSTED_KEYS={next(iter(trusted.keys))}={signatures.public_text(made.public)}")


def sign(
    model: ModelName,
    version: Annotated[int, typer.Argument(help="Its number.")],
) -> None:
    """Vouch for a version that is registered already, with the key of SLUICE_SIGNING_KEY_FILE."""
    from dataclasses import replace

    settings = platform()
    if not settings.signing_key:
        raise SluiceError("there is no key to sign with", "SLUICE_SIGNING_KEY_FILE=signing.key sluice models sign …")
    with told(f"sluice models show {model} {version}"):
        package = wiring.model_store(replace(settings, trusted_keys="")).package(model, version)
        wiring.model_store(settings).register(model, package)
    typer.echo(f"signed {model}@{version}, digest {package.digest}")
