"""Statements that break the invariants, one row each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Breakage:
    """A statement that breaks rows of the transaction `of` (as :id), and the invariants that are then broken."""

    what: str
    of: str
    statement: str
    breaks: tuple[str, ...]
    without: tuple[str, ...] = ()


COPY_LETTER = """
    INSERT INTO dead_letters SELECT (jsonb_populate_record(d, jsonb_build_object('id', CAST(:new AS text),
        'message_key', 'another'))).* FROM dead_letters d WHERE d.transaction_id = :id
"""
COPY_SETTLEMENT = """
    WITH copied AS (
        INSERT INTO settlements SELECT (jsonb_populate_record(s, jsonb_build_object('id', CAST(:new AS text)))).*
        FROM settlements s WHERE s.transaction_id = :id
    )
    INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency, posted_at)
    SELECT :new, transaction_id, merchant_id, account, direction, amount, currency, posted_at
    FROM ledger_entries WHERE transaction_id = :id
"""
SETTLE_ANYWAY = """
    INSERT INTO settlements SELECT CAST(:new AS uuid), id, merchant_id, amount, 0, amount, currency, 'settled',
        'simulated', 'sim_1', 1, now() FROM transactions WHERE id = :id
"""
POST_ANYWAY = """
    INSERT INTO ledger_entries (source_id, transaction_id, merchant_id, account, direction, amount, currency, posted_at)
    SELECT :new, id, merchant_id, account, direction, amount, currency, now() FROM transactions
    CROSS JOIN (VALUES ('provider_clearing', 'debit'), ('merchant_payable', 'credit')) AS e (account, direction)
    WHERE id = :id
"""
RECORD_OF_UNKNOWN = """
    INSERT INTO idempotency_records (merchant_id, key, request_hash, transaction_id, status, body)
    SELECT merchant_id, 'key/2', sha256(''), :new, 201, '' FROM transactions WHERE id = :id
"""
LOSE = "WITH lost AS (DELETE FROM outbox WHERE subject_id = :id) "
MAKE_STUCK = "UPDATE transactions SET updated_at = now() - interval '1 hour' WHERE id = :id"
OF_COMPLETED = "(SELECT id FROM settlements WHERE transaction_id = :id)"

BREAKAGES = (
    Breakage("its outbox row is lost", "pending", LOSE + MAKE_STUCK, ("unfinished_are_scheduled",)),
    Breakage("it is stuck", "retried", MAKE_STUCK, ("unfinished_are_scheduled",)),
    Breakage(
        "its lease is over", "leased", "UPDATE charge_attempts SET lease_until = now() - interval '1 s' WHERE"
        " transaction_id = :id", ("unfinished_are_scheduled",)
    ),
    Breakage(
        "its dead letter is lost", "dead_lettered", "DELETE FROM dead_letters WHERE transaction_id = :id",
        ("dead_lettered_have_one_open_dead_letter",)
    ),
    Breakage(
        "it has two dead letters", "dead_lettered", COPY_LETTER, ("dead_lettered_have_one_open_dead_letter",),
        without=("uq_dead_letters_open_subject",)
    ),
    Breakage(
        "it is dead-lettered and scheduled", "dead_lettered", "UPDATE transactions SET status = 'processing',"
        " failure_category = NULL WHERE id = :id", ("open_dead_letters_are_of_dead_lettered",)
    ),
    Breakage("an accepted one is gone", "completed", RECORD_OF_UNKNOWN, ("idempotency_records_name_transactions",)),
    Breakage(
        "an entry is too large", "completed", "UPDATE ledger_entries SET amount = amount + 1 WHERE account = 'fees'"
        " AND transaction_id = :id",
        ("ledger_balances_by_currency", "ledger_balances_by_source", "settlements_have_their_entries")
    ),
    Breakage(
        "two errors hide each other", "completed", "UPDATE ledger_entries SET amount = amount + CASE transaction_id"
        " WHEN :id THEN 1 ELSE -1 END WHERE account = 'fees' AND transaction_id IN (:id, :other)",
        ("ledger_balances_by_source", "settlements_have_their_entries")
    ),
    Breakage(
        "it posted nothing", "completed", "DELETE FROM ledger_entries WHERE transaction_id = :id",
        ("settlements_have_their_entries",)
    ),
    Breakage(
        "it posted to the wrong accounts", "completed", "UPDATE ledger_entries SET amount = 500"
        " WHERE transaction_id = :id AND direction = 'credit'", ("settlements_have_their_entries",)
    ),
    Breakage(
        "its settlement is lost", "completed", "DELETE FROM settlements WHERE transaction_id = :id",
        ("settled_have_one_settlement",)
    ),
    Breakage(
        "it is settled twice", "completed", COPY_SETTLEMENT, ("settled_have_one_settlement",),
        without=("uq_settlements_transaction_id", "uq_settlements_provider_provider_reference")
    ),
    Breakage(
        "its amount differs", "completed", "UPDATE transactions SET amount = amount + 1 WHERE id = :id",
        ("settlements_agree_with_their_transactions",)
    ),
    Breakage(
        "its currency differs", "refunded", "UPDATE transactions SET currency = 'EUR' WHERE id = :id",
        ("refunds_add_up", "settlements_agree_with_their_transactions")
    ),
    Breakage(
        "its net is wrong", "completed", "UPDATE settlements SET net = net - 1 WHERE transaction_id = :id",
        ("settlements_agree_with_their_transactions", "settlements_have_their_entries"),
        without=("ck_settlements_net",)
    ),
    Breakage(
        "it failed, yet it is settled", "failed", SETTLE_ANYWAY,
        ("settlements_are_of_settled", "settlements_have_their_entries")
    ),
    Breakage("it failed, yet it is posted", "failed", POST_ANYWAY, ("entries_are_of_settled",)),
    Breakage("it was canceled, yet it is posted", "canceled", POST_ANYWAY, ("entries_are_of_settled",)),
    Breakage(
        "its attempt was declined", "completed",
        "UPDATE charge_attempts SET outcome = 'declined' WHERE transaction_id = :id",
        ("settled_have_an_approved_attempt",)
    ),
    Breakage(
        "it has no reference", "completed", "UPDATE transactions SET provider_reference = NULL WHERE id = :id",
        ("settled_have_an_approved_attempt", "settlements_agree_with_their_transactions"),
        without=("ck_transactions_settled",)
    ),
    Breakage(
        "it failed, yet it was charged", "failed",
        "UPDATE charge_attempts SET outcome = 'approved' WHERE transaction_id = :id", ("failed_were_not_charged",)
    ),
    Breakage(
        "it was tried too often", "replayed", "UPDATE transactions SET attempt_limit = 3 WHERE id = :id",
        ("attempts_stay_within_their_limit",)
    ),
    Breakage(
        "a refund's outbox row is lost", "pending_refund", LOSE + MAKE_STUCK.replace("transactions", "refunds"),
        ("pending_refunds_are_scheduled",)
    ),
    Breakage(
        "a refund is stuck", "retried_refund", MAKE_STUCK.replace("transactions", "refunds"),
        ("pending_refunds_are_scheduled",)
    ),
    Breakage(
        "a refund's lease is over", "leased_refund", "UPDATE refund_attempts SET lease_until = now() - interval '1 s'"
        " WHERE refund_id = :id", ("pending_refunds_are_scheduled",)
    ),
    Breakage(
        "a refund's dead letter is lost", "dead_lettered_refund", "DELETE FROM dead_letters WHERE refund_id = :id",
        ("dead_lettered_refunds_have_one_open_dead_letter",)
    ),
    Breakage(
        "a refund is dead-lettered and scheduled", "dead_lettered_refund", "UPDATE refunds SET status = 'pending',"
        " failure_category = NULL WHERE id = :id", ("open_dead_letters_are_of_dead_lettered_refunds",)
    ),
    Breakage(
        "an accepted refund is gone", "completed", RECORD_OF_UNKNOWN.replace("body)", "body, location)").replace(
            "merchant_id, 'key/2', sha256(''), :new, 201, ''",
            "merchant_id, 'key/2', sha256(''), id, 201, '', '/v1/refunds/' || :new"),
        ("idempotency_records_name_refunds",)
    ),
    Breakage(
        "more is refunded than its refunds say", "partially_refunded", "UPDATE transactions SET amount_refunded = 2"
        " WHERE id = :id", ("refunds_add_up",)
    ),
    Breakage(
        "more is reserved than its refunds say", "completed", "UPDATE transactions SET amount_refund_reserved = 1"
        " WHERE id = :id", ("refunds_add_up",)
    ),
    Breakage(
        "nothing is reserved for a refund", "dead_lettered_refund",
        "UPDATE transactions SET amount_refund_reserved = 0 FROM refunds f"
        " WHERE f.id = :id AND transactions.id = f.transaction_id", ("refunds_add_up",)
    ),
    Breakage(
        "its status hides a refund", "partially_refunded", "UPDATE transactions SET status = 'completed'"
        " WHERE id = :id", ("refunds_add_up",)
    ),
    Breakage(
        "a refund posted nothing", "completed_refund", "DELETE FROM ledger_entries WHERE source_id = :id",
        ("refunds_have_their_entries",)
    ),
    Breakage(
        "a refund posted the wrong way round", "completed_refund", "UPDATE ledger_entries SET direction ="
        " CASE direction WHEN 'debit' THEN 'credit' ELSE 'debit' END WHERE source_id = :id",
        ("refunds_have_their_entries",)
    ),
    Breakage(
        "a refund posted before it was made", "pending_refund", POST_ANYWAY.replace("SELECT :new, id", "SELECT id,"
        " transaction_id").replace("FROM transactions", "FROM refunds"), ("refunds_have_their_entries",)
    ),
    Breakage(
        "a refund's attempt was declined", "completed_refund", "UPDATE refund_attempts SET outcome = 'declined'"
        " WHERE refund_id = :id", ("completed_refunds_have_an_approved_attempt",)
    ),
    Breakage(
        "a refund failed, yet it was made", "failed_refund", "UPDATE refund_attempts SET outcome = 'approved'"
        " WHERE refund_id = :id", ("failed_refunds_were_not_given_back",)
    ),
    Breakage(
        "a refund was tried too often", "replayed_refund", "UPDATE refunds SET attempt_limit = 3 WHERE id = :id",
        ("refund_attempts_stay_within_their_limit",)
    ),
)  # fmt: skip
