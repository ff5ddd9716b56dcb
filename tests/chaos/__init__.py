"""`make chaos`: payments through the public API while faults hit real processes, judged from outside.

A load of payments with mixed tokens runs against a stack of its own while a seeded schedule of faults is carried out.
Then everything is brought back and drained, and the truth is compared: what clients saw accepted (201), what the
gateway says became of it, and what the acquirer says it charged.
"""
