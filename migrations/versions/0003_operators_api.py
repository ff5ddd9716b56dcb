"""Add jobs on dead letters, statements, and findings and resolutions of discrepancies"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.downgrades import refuse_to_lose

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NEW_KINDS = (
    "'missing_at_provider', 'charged_not_settled', 'duplicate_charge', 'refunded_not_recorded', 'unknown_to_us', 'statement_amount_mismatch', "
    "'statement_currency_mismatch'"
)
_OLD_KINDS = (
    "'missing_settlement', 'amount_mismatch', 'currency_mismatch', 'duplicate_settlement', 'orphan_settlement', "
    "'ledger_imbalance', 'stuck_processing'"
)
_FINDINGS = """
    INSERT INTO reconciliation_findings (run_id, discrepancy_id)
    SELECT first_run_id, id FROM discrepancies UNION SELECT last_run_id, id FROM discrepancies
"""
BRIN = {"autosummarize": "on", "pages_per_range": 32}


def upgrade() -> None:
    op.create_table(
        "dead_letter_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("filter", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("max_per_second", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("position", sa.Uuid(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("next_step_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("action IN ('replay', 'discard')", name=op.f("ck_dead_letter_jobs_action")),
        sa.CheckConstraint("status IN ('running', 'completed', 'canceled')", name=op.f("ck_dead_letter_jobs_status")),
        sa.CheckConstraint(
            "count >= 0 AND done >= 0 AND failed >= 0 AND max_per_second > 0", name=op.f("ck_dead_letter_jobs_counters")
        ),
        sa.CheckConstraint("(status = 'running') = (finished_at IS NULL)", name=op.f("ck_dead_letter_jobs_finished")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter_jobs")),
    )
    op.create_index(
        "ix_dead_letter_jobs_running",
        "dead_letter_jobs",
        ["next_step_at"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "statements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("period_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("totals", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("uploaded_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(content_hash) = 32", name=op.f("ck_statements_content_hash")),
        sa.CheckConstraint("period_from < period_to", name=op.f("ck_statements_period")),
        sa.ForeignKeyConstraint(["run_id"], ["reconciliation_runs.id"], name=op.f("fk_statements_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statements")),
        sa.UniqueConstraint("provider", "content_hash", name=op.f("uq_statements_provider_content_hash")),
    )
    op.create_table(
        "statement_lines",
        sa.Column("statement_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("provider_reference", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("fee", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount > 0 AND fee >= 0", name=op.f("ck_statement_lines_amounts")),
        sa.CheckConstraint("type IN ('charge', 'refund')", name=op.f("ck_statement_lines_type")),
        sa.ForeignKeyConstraint(["statement_id"], ["statements.id"], name=op.f("fk_statement_lines_statement_id")),
        sa.PrimaryKeyConstraint("statement_id", "number", name=op.f("pk_statement_lines")),
    )
    op.create_index(
        op.f("ix_statement_lines_at"),
        "statement_lines",
        ["at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with=BRIN,
    )
    op.create_index(
        "ix_statement_lines_charge",
        "statement_lines",
        ["provider", "provider_reference"],
        unique=False,
        postgresql_where=sa.text("type = 'charge'"),
    )
    op.create_index(
        "ix_statement_lines_refund",
        "statement_lines",
        ["subject_id"],
        unique=False,
        postgresql_where=sa.text("type = 'refund'"),
    )
    op.create_table(
        "reconciliation_findings",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("discrepancy_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["discrepancy_id"], ["discrepancies.id"], name=op.f("fk_reconciliation_findings_discrepancy_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["reconciliation_runs.id"], name=op.f("fk_reconciliation_findings_run_id")),
        sa.PrimaryKeyConstraint("run_id", "discrepancy_id", name=op.f("pk_reconciliation_findings")),
    )
    op.create_index(
        op.f("ix_reconciliation_findings_discrepancy_id"), "reconciliation_findings", ["discrepancy_id"], unique=False
    )
    for column in ("provider", "requested_by"):
        op.add_column("reconciliation_runs", sa.Column(column, sa.Text(), nullable=True))
    op.add_column("reconciliation_runs", sa.Column("enqueued_at", sa.DateTime(timezone=True), nullable=True))
    _replace_check("reconciliation_runs", "status", "status IN ('pending', 'running', 'completed', 'failed')")
    op.create_index(
        "ix_reconciliation_runs_pending",
        "reconciliation_runs",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    for column in ("resolution", "note", "resolved_by"):
        op.add_column("discrepancies", sa.Column(column, sa.Text(), nullable=True))
    op.add_column("discrepancies", sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True))
    _replace_check("discrepancies", "kind", f"kind IN ({_OLD_KINDS}, {_NEW_KINDS})")
    op.execute("UPDATE discrepancies SET resolved_at = last_seen_at WHERE status = 'resolved'")
    op.create_check_constraint(
        "resolution", "discrepancies", "resolution IN ('corrected', 'accepted', 'false_alarm', 'other')"
    )
    op.create_check_constraint("resolved", "discrepancies", "(status = 'resolved') = (resolved_at IS NOT NULL)")
    op.execute(_FINDINGS)


def downgrade() -> None:
    refuse_to_lose(
        "statements",
        "dead_letter_jobs",
        rows={"discrepancies": f"resolved_at IS NOT NULL OR kind IN ({_NEW_KINDS})"},
    )
    op.drop_table("reconciliation_findings")
    op.drop_table("statement_lines")
    op.drop_table("statements")
    op.drop_table("dead_letter_jobs")
    op.execute(f"DELETE FROM discrepancies WHERE kind IN ({_NEW_KINDS})")  # noqa: S608  # a constant
    _replace_check("discrepancies", "kind", f"kind IN ({_OLD_KINDS})")
    op.drop_constraint(op.f("ck_discrepancies_resolved"), "discrepancies")
    op.drop_constraint(op.f("ck_discrepancies_resolution"), "discrepancies")
    for column in ("resolved_at", "resolved_by", "note", "resolution"):
        op.drop_column("discrepancies", column)
    op.drop_index("ix_reconciliation_runs_pending", table_name="reconciliation_runs")
    op.execute(
        "UPDATE reconciliation_runs SET status = 'failed', finished_at = now(), error = 'It was never carried out.' "
        "WHERE status = 'pending'"
    )
    _replace_check("reconciliation_runs", "status", "status IN ('running', 'completed', 'failed')")
    for column in ("enqueued_at", "requested_by", "provider"):
        op.drop_column("reconciliation_runs", column)


def _replace_check(table: str, column: str, condition: str) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{column}"), table)
    op.create_check_constraint(column, table, condition)
