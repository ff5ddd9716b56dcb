"""`flask keys`: rotate and list the keys that sign access tokens, and revoke all tokens.

gateway/security/signing_keys.py describes the rotation.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gateway import db
from gateway.cli.support import CommandFailed, actor, json_option, reports_errors
from gateway.domain.shared import audit
from gateway.ids import rfc3339
from gateway.security import device_tokens
from gateway.security.signing_keys import OVERLAP_SECONDS, KeyState, SigningKey, key_ring


@click.group("keys")
def command() -> None:
    """List, rotate and revoke the keys that sign access tokens."""


@command.command("list")
@json_option
def list_keys(*, as_json: bool) -> None:
    """List the signing keys, oldest first.

    States: next (published, will sign later), signing, verifying (verifies the tokens that it has signed), retired
    (not used any more; the next rotation deletes it).
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
    """Create a new signing key and delete the retired keys, without a restart.

    The new key is published immediately and signs ten minutes later, when every host and cache has it. The old key
    verifies until its last token has expired. If a key has leaked, rotate, then delete its file.

    Exit status: 1 if the previous new key does not sign yet, or if the folder is not writable.
    """
    ring = key_ring()
    try:
        for path in ring.remove_retired():
            click.echo(f"{path.name} was retired and is deleted.")
        added = ring.add_key()
    except OSError as exc:
        raise CommandFailed(f"KEYS_DIR is not writable: {exc}") from exc
    if added is None:
        raise CommandFailed("The previous new key does not sign yet; see `flask keys list`.")
    signs_at = datetime.now(UTC) + timedelta(seconds=OVERLAP_SECONDS)
    click.echo(f"{added.name} is published. It signs from {signs_at:%Y-%m-%d %H:%M:%S} UTC.")


@command.command("revoke-all")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@reports_errors
def revoke_all(*, yes: bool) -> None:
    """Revoke all access tokens and all device tokens.

    Run it after a restore of the database, which makes revoked tokens valid again, and after a leak of keys. A new key
    signs immediately, and all other keys are deleted. Within about a second every process that shares KEYS_DIR rejects
    the old tokens. Programs must get new tokens from /oauth/token. Users must log in again, and their devices count as
    unknown. Client secrets and webhook secrets stay valid.

    Exit status: 1 if it was not confirmed or the folder is not writable, 75 if the database with the audit log is
    unavailable.
    """
    if not yes:
        click.confirm("All access tokens and device tokens will stop working. Revoke them all?", abort=True)
    try:
        with db.begin() as connection:  # nothing is revoked without an entry in the audit log
            audit.record(connection, actor=actor(), action="keys.revoked_all", subject="keys")
            key, deleted = key_ring().replace_all()
            device_tokens.revoke_all()
    except OSError as exc:
        raise CommandFailed(f"KEYS_DIR is not writable: {exc}") from exc
    for path in deleted:
        click.echo(f"{path.name} was deleted.")
    click.echo(f"{key.name} signs from now on. All tokens that were issued before are rejected within about a second.")
