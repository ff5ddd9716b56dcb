"""The plain pipeline with which the gateway is compared.

It is what a good team writes first: Flask, an ORM session per request, publishing after the commit, a task per message,
`chain(route, settle)`, late acknowledgements, publisher confirms, quorum queues, an ORM session per task. Where there
was a choice, it uses the faster one: all workers serve both queues, there is no index that a payment does not need,
one commit per task, no metrics and no events.
"""
