"""The verdict on refunds, cancels and the balance: what the API lists must agree with the acquirer's refunds."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.chaos.judge import Verdict, at_acquirer
from tests.chaos.load import Notes
from tests.chaos.refunds import RefundNotes
from tests.chaos.stack import ChaosStack
from tests.end_to_end.client import Client

DECLINED, ALWAYS_DEAD = "tok_refund_decline", "tok_refund_error_always"
"""Payment methods whose refunds fail, and whose refunds are dead letters."""
Objects = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Books:
    """What the merchant can read, by id."""

    transactions: Objects
    settlements: Objects
    refunds: Objects

    @classmethod
    def read(cls, client: Client) -> "Books":
        """Everything, from the API."""
        return cls(*({row["id"]: row for row in client.listed(f"/v1/{what}")} for what in cls.__slots__))

    def token_of(self, refund: dict[str, Any]) -> str:
        """The payment method of what is refunded."""
        return str(self.transactions[refund["transaction_id"]]["payment_method"])


def judge(stack: ChaosStack, client: Client, asked: RefundNotes, notes: Notes, verdict: Verdict) -> Books:
    """Read and compare everything; call it after `drain`."""
    books = Books.read(client)
    _judge_refunds(stack, books, asked, verdict)
    _judge_acquirer(stack, books, verdict)
    _judge_cancels(stack, books, notes, verdict)
    _judge_balance(client, books, verdict)
    return books


def _judge_refunds(stack: ChaosStack, books: Books, asked: RefundNotes, verdict: Verdict) -> None:
    """Every accepted refund has ended, and no request became two."""
    with stack.database() as connection:
        query = "SELECT refund_id FROM dead_letters WHERE status = 'open' AND refund_id IS NOT NULL"
        letters = {str(row[0]) for row in connection.execute(query)}
    refunds = books.refunds
    statuses = Counter(refund["status"] for refund in refunds.values())
    dead = Counter(books.token_of(refund) for refund in refunds.values() if refund["status"] == "dead_lettered")
    verdict.figures += [
        ("refunds accepted (201)", len(asked.accepted)),
        ("refunds refused, not so much is left", asked.too_much),
        ("refunds never answered", asked.unanswered),
        ("refunds sent again, answered the same", asked.replayed),
        ("refunds by status", ", ".join(f"{name} {number}" for name, number in sorted(statuses.items()))),
        ("dead refunds, expected", dead[ALWAYS_DEAD]),
        ("dead refunds, unexpected", dead.total() - dead[ALWAYS_DEAD]),
    ]
    ended = {id for id, refund in refunds.items() if refund["status"] in {"completed", "failed"}} | (
        {id for id, refund in refunds.items() if refund["status"] == "dead_lettered"} & letters
    )
    wrongly_failed = [
        id for id, refund in refunds.items() if refund["status"] == "failed" and books.token_of(refund) != DECLINED
    ]
    times = Counter(refund["reason"] for refund in refunds.values())
    verdict.expect_none("refunds lost", [id for id in map(str, asked.accepted) if id not in ended])
    verdict.expect_none("refunds failed for no reason", wrongly_failed)
    verdict.expect_none("requests that became two refunds", [key for key, number in times.items() if number > 1])
    verdict.expect_none("refunds that nobody asked for", sorted(times.keys() - asked.asked))
    if statuses["completed"] == 0:
        verdict.failures.append("nothing was refunded, so nothing is proven for refunds")


def _judge_acquirer(stack: ChaosStack, books: Books, verdict: Verdict) -> None:
    """The acquirer's refunds are the completed ones, one to one.

    One whose refund is an open dead letter (in doubt) is not lost: an operator's replay will find it.
    """
    completed = {id: row for id, row in books.refunds.items() if row["status"] == "completed"}
    in_doubt = {id: row for id, row in books.refunds.items() if row["status"] == "dead_lettered"}
    given_back = at_acquirer(stack, "refunds")
    at = {str(row["idempotency_key"]): row for row in given_back}
    wrong = [
        id
        for id, row in completed.items()
        if id not in at or (at[id]["amount"], at[id]["id"]) != (row["amount"], row["provider_reference"])
    ]
    charge_of = {id: row["provider_reference"] for id, row in books.transactions.items()}
    owed = Counter(charge_of[row["transaction_id"]] for row in (completed | in_doubt).values())
    times = Counter(row["charge_id"] for row in given_back)
    verdict.expect_none("refunded twice", sorted((times - owed).elements()))
    verdict.expect_none("given back, not completed", sorted(at.keys() - completed.keys() - in_doubt.keys()))
    verdict.expect_none("completed, not given back", wrong)
    _judge_sums(stack, books, given_back, verdict)


def _judge_sums(stack: ChaosStack, books: Books, given_back: list[dict[str, Any]], verdict: Verdict) -> None:
    """No charge is given back beyond its amount, and transactions know how much of them is."""
    charged = {row["id"]: row["amount"] for row in at_acquirer(stack, "charges") if row["status"] == "approved"}
    sums: Counter[str] = Counter()
    for row in given_back:
        sums[row["charge_id"]] += row["amount"]
    verdict.expect_none(
        "charges refunded beyond their amount", [id for id, total in sums.items() if total > charged.get(id, 0)]
    )
    refunded: Counter[str] = Counter()
    for row in books.refunds.values():
        refunded[row["transaction_id"]] += row["amount"] if row["status"] == "completed" else 0
    differing = [id for id, row in books.transactions.items() if row["amount_refunded"] != refunded[id]]
    verdict.expect_none("amount_refunded is not the sum of refunds", differing)


def _judge_cancels(stack: ChaosStack, books: Books, notes: Notes, verdict: Verdict) -> None:
    """What a client was told is canceled stays so, and nothing that is canceled was charged."""
    canceled = {id for id, row in books.transactions.items() if row["status"] == "canceled"}
    tried = {str(row["idempotency_key"]) for row in at_acquirer(stack, "charges")}
    settled = {row["transaction_id"] for row in books.settlements.values()}
    cancels = ", ".join(f"{name} {number}" for name, number in sorted(notes.cancels.items()))
    verdict.figures.append(("cancels", cancels or "none"))
    verdict.expect_none("canceled, yet charged or settled", sorted(canceled & (tried | settled)))
    verdict.expect_none("told canceled, but is not", sorted(set(map(str, notes.canceled)) - canceled))
    unexplained = len(canceled) - len(notes.canceled) - notes.cancels["unanswered"]
    verdict.expect_none("canceled, and nobody asked", [unexplained] if unexplained > 0 else [])
    references = Counter(row["reference"] for row in books.transactions.values())
    verdict.expect_none(
        "requests that became two payments", [name for name, number in references.items() if number > 1]
    )


def _judge_balance(client: Client, books: Books, verdict: Verdict) -> None:
    """The balance is settled - refunded - fees of the lists, in each currency, to the minor unit."""
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in books.settlements.values():
        expected[row["currency"]].update(settled=row["amount"], fees=row["fee"])
    for row in books.refunds.values():
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
        verdict.failures.append(f"balances in {sorted(found)}, but money moved in {sorted(expected)}")
