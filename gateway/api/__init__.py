"""HTTP in and out: parse, call the domain, answer. The contract is api.md; no rule of the business lives here."""
