"""`make chaos`: payments through the public API while faults hit real processes; external checks find every loss.

A load of payments with various tokens runs against a separate stack during a seeded schedule of faults. The merchant
cancels some payments, receives webhooks about the others, and refunds some of those. Then all faults end, the stack
finishes its work, and the checks compare: the payments that clients saw accepted (201), their statuses in the gateway,
the charges and refunds of the acquirer, and the received events.
"""
