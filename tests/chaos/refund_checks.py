"""Check refunds, cancellations and the balance: the lists of the API must agree with the acquirer's refunds."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.chaos.checks import Verdict, at_acquirer
from tests.chaos.load import ClientLog
from tests.chaos.refunds import RefundLog
from tests.chaos.stack import ChaosStack
from tests.end_to_end.client import Client

DECLINED, ALWAYS_DEAD = "tok_refund_decline", "tok_refund_error_always"
"""Payment methods whose refunds fail, and whose refunds are dead-lettered."""
Objects = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class MerchantData:
    """The objects that the merchant can read, by id."""

    transactions: Objects
    settlements: Objects
    refunds: Objects

    @classmethod
    def read(cls, client: Client) -> "MerchantData":
        """Read all objects from the API."""
        return cls(*({row["id"]: row for row in client.listed(f"/v1/{what}")} for what in cls.__slots__))

    def token_of(self, refund: dict[str, Any]) -> str:
        """Return the payment method of the refunded transaction."""
        return str(self.transactions[refund["transaction_id"]]["payment_method"])


def check(stack: ChaosStack, client: Client, refunds_log: RefundLog, log: ClientLog, verdict: Verdict) -> MerchantData:
    """Read and check everything; call this after `drain`."""
    data = MerchantData.read(client)
    _check_refunds(stack, data, refunds_log, verdict)
    _check_acquirer(stack, data, verdict)
    _check_cancels(stack, data, log, verdict)
    _check_balance(client, data, verdict)
    return data


def _check_refunds(stack: ChaosStack, data: MerchantData, refunds_log: RefundLog, verdict: Verdict) -> None:
    """Check that every accepted refund is final, and that no request became two refunds."""
    with stack.database() as connection:
        query = "SELECT refund_id FROM dead_letters WHERE status = 'open' AND refund_id IS NOT NULL"
        letters = {str(row[0]) for row in connection.execute(query)}
    refunds = data.refunds
    statuses = Counter(refund["status"] for refund in refunds.values())
    dead = Counter(data.token_of(refund) for refund in refunds.values() if refund["status"] == "dead_lettered")
    verdict.figures += [
        ("refunds accepted (201)", len(refunds_log.accepted)),
        ("refunds refused, amount too high", refunds_log.too_much),
        ("refunds without a response", refunds_log.unanswered),
        ("repeated refunds with the same response", refunds_log.replayed),
        ("refunds by status", ", ".join(f"{name} {number}" for name, number in sorted(statuses.items()))),
        ("dead refunds, expected", dead[ALWAYS_DEAD]),
        ("dead refunds, unexpected", dead.total() - dead[ALWAYS_DEAD]),
    ]
    ended = {id for id, refund in refunds.items() if refund["status"] in {"completed", "failed"}} | (
        {id for id, refund in refunds.items() if refund["status"] == "dead_lettered"} & letters
    )
    wrongly_failed = [
        id for id, refund in refunds.items() if refund["status"] == "failed" and data.token_of(refund) != DECLINED
    ]
    times = Counter(refund["reason"] for refund in refunds.values())
    verdict.expect_none("refunds lost", [id for id in map(str, refunds_log.accepted) if id not in ended])
    verdict.expect_none("refunds failed without a reason", wrongly_failed)
    verdict.expect_none("requests that became two refunds", [key for key, number in times.items() if number > 1])
    verdict.expect_none("refunds that were not requested", sorted(times.keys() - refunds_log.requested))
    if statuses["completed"] == 0:
        verdict.failures.append("no payment was refunded, so refunds were not tested")


def _check_acquirer(stack: ChaosStack, data: MerchantData, verdict: Verdict) -> None:
    """Check that the acquirer's refunds correspond to the completed ones one to one.

    One whose refund has an open dead letter is not lost: a replay finds it.
    """
    completed = {id: row for id, row in data.refunds.items() if row["status"] == "completed"}
    in_doubt = {id: row for id, row in data.refunds.items() if row["status"] == "dead_lettered"}
    at_the_acquirer = at_acquirer(stack, "refunds")
    at = {str(row["idempotency_key"]): row for row in at_the_acquirer}
    wrong = [
        id
        for id, row in completed.items()
        if id not in at or (at[id]["amount"], at[id]["id"]) != (row["amount"], row["provider_reference"])
    ]
    charge_of = {id: row["provider_reference"] for id, row in data.transactions.items()}
    owed = Counter(charge_of[row["transaction_id"]] for row in (completed | in_doubt).values())
    times = Counter(row["charge_id"] for row in at_the_acquirer)
    verdict.expect_none("refunded twice", sorted((times - owed).elements()))
    verdict.expect_none(
        "refunded by the acquirer, not completed", sorted(at.keys() - completed.keys() - in_doubt.keys())
    )
    verdict.expect_none("completed, not refunded by the acquirer", wrong)
    _check_sums(stack, data, at_the_acquirer, verdict)


def _check_sums(stack: ChaosStack, data: MerchantData, at_the_acquirer: list[dict[str, Any]], verdict: Verdict) -> None:
    """Check that no charge is refunded beyond its amount, and that `amount_refunded` is correct."""
    charged = {row["id"]: row["amount"] for row in at_acquirer(stack, "charges") if row["status"] == "approved"}
    sums: Counter[str] = Counter()
    for row in at_the_acquirer:
        sums[row["charge_id"]] += row["amount"]
    verdict.expect_none(
        "charges refunded beyond their amount", [id for id, total in sums.items() if total > charged.get(id, 0)]
    )
    refunded: Counter[str] = Counter()
    for row in data.refunds.values():
        refunded[row["transaction_id"]] += row["amount"] if row["status"] == "completed" else 0
    differing = [id for id, row in data.transactions.items() if row["amount_refunded"] != refunded[id]]
    verdict.expect_none("amount_refunded is not the sum of refunds", differing)


def _check_cancels(stack: ChaosStack, data: MerchantData, log: ClientLog, verdict: Verdict) -> None:
    """Check that payments that a client saw canceled stay so, and that no canceled payment was charged."""
    canceled = {id for id, row in data.transactions.items() if row["status"] == "canceled"}
    tried = {str(row["idempotency_key"]) for row in at_acquirer(stack, "charges")}
    settled = {row["transaction_id"] for row in data.settlements.values()}
    cancels = ", ".join(f"{name} {number}" for name, number in sorted(log.cancels.items()))
    verdict.figures.append(("cancellations", cancels or "none"))
    verdict.expect_none("canceled, yet charged or settled", sorted(canceled & (tried | settled)))
    verdict.expect_none(
        "canceled for the client, but not in the gateway", sorted(set(map(str, log.canceled)) - canceled)
    )
    unexplained = len(canceled) - len(log.canceled) - log.cancels["unanswered"]
    verdict.expect_none("canceled without a request", [unexplained] if unexplained > 0 else [])
    references = Counter(row["reference"] for row in data.transactions.values())
    verdict.expect_none(
        "requests that became two payments", [name for name, number in references.items() if number > 1]
    )


def _check_balance(client: Client, data: MerchantData, verdict: Verdict) -> None:
    """Check that the balance is settled - refunded - fees of the lists, in each currency, to the minor unit."""
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in data.settlements.values():
        expected[row["currency"]].update(settled=row["amount"], fees=row["fee"])
    for row in data.refunds.values():
        if row["status"] == "completed":
            expected[row["currency"]].update(refunded=row["amount"])
    found = {row["currency"]: row for row in client.get("/v1/balance")["data"]}
    for currency, sums in expected.items():
        available = sums["settled"] - sums["refunded"] - sums["fees"]
        wanted = {name: sums[name] for name in ("settled", "refunded", "fees")} | {"available": available}
        verdict.figures.append((f"balance in {currency}", ", ".join(f"{key} {wanted[key]}" for key in sorted(wanted))))
        if found.get(currency) != wanted | {"currency": currency}:
            verdict.failures.append(f"the balance in {currency} is {found.get(currency)}, the lists say {wanted}")
    if found.keys() != expected.keys():
        verdict.failures.append(f"balances in {sorted(found)}, but payments were in {sorted(expected)}")
