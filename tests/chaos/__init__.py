"""`make chaos`: payments through the public API while faults hit real processes, judged from outside.

A load of payments with mixed tokens runs against a stack of its own while a seeded schedule of faults is carried out.
The merchant cancels some, is told of the others by webhooks, and refunds some of those. Then everything is brought back
and drained, and the truth is compared: what clients saw accepted (201), what the gateway says became of it, what the
acquirer says it charged and gave back, and which events came.
"""
