"""`flask keys`: rotate and list the keys that sign access tokens, and revoke all tokens.

gateway/security/signing_keys.py describes the rotation.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gateway import db
from gateway.cli.support import actor, reports_errors
from gateway.domain.shared import audit
from gateway.ids import rfc3339
from gateway.security import device_tokens
from gateway.security.signing_keys import OVERLAP_SECONDS, KeyState, SigningKey, key_ring


@click.group("keys")
def command() -> None:
    """Rotate the keys that sign access tokens."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_keys(*, as_json: bool) -> None:
    """List the signing keys, lowest first.

    next: published, signs later. signing. verifying: of tokens that it signed before. retired: no more, deleted by the
    next rotation.
    """
    shown = [_represent(key, state) for key, state in key_ring().with_states()]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for key in shown:
        click.echo("  ".join((f"{key['state']:<9}", key["file"], key["made_at"], key["kid"])))


def _represent(key: SigningKey, state: KeyState) -> dict[str, Any]:
    made_at = datetime.fromtimestamp(key.made_at, UTC)
    return {"kid": key.key_id, "state": state.value, "file": key.path.name, "made_at": rfc3339(made_at)}


@command.command("rotate")
def rotate() -> None:
    """Make a new signing key and delete the retired ones, while everything runs.

    The new key is published at once and signs ten minutes later, when every host and cache has it. The old one goes on
    verifying until its last token has expired. A key that leaked: rotate, then delete its file.

    Exit status: 1 when a key waits to sign already, or when the folder cannot be written to.
    """
    ring = key_ring()
    try:
        for path in ring.remove_retired():
            click.echo(f"{path.name} is retired; deleted.")
        added = ring.add_key()
    except OSError as exc:
        raise click.ClickException(f"KEYS_DIR cannot be written to: {exc}") from exc
    if added is None:
        raise click.ClickException("A new key waits to sign already; see `flask keys list`.")
    signs_at = datetime.now(UTC) + timedelta(seconds=OVERLAP_SECONDS)
    click.echo(f"{added.name} is published; it signs from {signs_at:%Y-%m-%d %H:%M:%S} UTC on.")


@command.command("revoke-all")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@reports_errors
def revoke_all(*, yes: bool) -> None:
    """Revoke all access tokens and all device tokens.

    Use it after a restore of the database, which makes revoked tokens valid again, and after a leak of keys. A new key
    signs immediately, and all other keys are deleted. Within about a second every process that shares KEYS_DIR rejects
    the old tokens. Programs must get new tokens from /oauth/token. Users must log in again, from devices that count as
    unknown. Client secrets and webhook secrets stay valid.

    Exit status: 1 if it was not confirmed or the folder is not writable, 75 if the database with the audit log is
    unavailable.
    """
    if not yes:
        click.confirm("All access tokens and device tokens will stop working. Revoke them all?", abort=True)
    try:
        with db.begin() as connection:  # nothing is revoked without an entry in the audit log
            audit.record(connection, actor=actor(), action="keys.revoked_all", subject="keys")
            made, deleted = key_ring().replace_all()
            device_tokens.revoke_all()
    except OSError as exc:
        raise click.ClickException(f"KEYS_DIR cannot be written to: {exc}") from exc
    for path in deleted:
        click.echo(f"{path.name} was deleted.")
    click.echo(f"{made.name} signs from now on. All tokens that were issued before are rejected within about a second.")
