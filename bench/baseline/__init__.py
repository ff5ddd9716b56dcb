"""The plain pipeline that the gateway is compared with.

What a good team writes first: Flask, one ORM session a request, publish after the commit, one task a message,
`chain(route, settle)`, late acknowledgements, publisher confirms, quorum queues, one ORM session a task. Where there
was a choice, the faster one was taken: workers that all serve both queues, no index that a payment does not need,
one commit a task, no metrics and no events.
"""
